"""A finite MDP so small that everything about it can be computed by enumeration or backward induction."""

import itertools

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

STATES, ACTIONS = 3, 2
rng = np.random.default_rng(7)
START = np.array([0.5, 0.3, 0.2])
MOVES = rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))  # P(s'|s, a)
REWARDS = rng.normal(2.0, 1.0, (STATES, ACTIONS, STATES))
TERMINAL = np.zeros((STATES, ACTIONS, STATES), bool)
TERMINAL[1, 0, 2] = TERMINAL[2, 1, :] = True
ONE_HOT = np.eye(STATES, dtype=np.float32)


def policy(vector):
    """π(a|s) (STATES, ACTIONS) for the parameters of a network without hidden layers: a weight and a bias."""
    weight, bias = vector[: STATES * ACTIONS].reshape(STATES, ACTIONS), vector[STATES * ACTIONS :]
    logits = weight + bias
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def values(vector, gamma, horizon):
    """V_t(s) (horizon + 1, STATES) by backward induction."""
    chances = policy(vector)
    table = np.zeros((horizon + 1, STATES))
    for time in range(horizon - 1, -1, -1):
        following = REWARDS + gamma * table[time + 1] * ~TERMINAL
        table[time] = (chances * (MOVES * following).sum(2)).sum(1)
    return table


def expected_return(vector, gamma, horizon):
    return START @ values(vector, gamma, horizon)[0]


def gradient(vector, gamma, horizon, width=1e-5):
    """Gradient of the expected return by central differences."""
    slopes = [
        expected_return(vector + step, gamma, horizon) - expected_return(vector - step, gamma, horizon)
        for step in width * np.eye(len(vector))
    ]
    return np.array(slopes) / (2 * width)


def trajectories(vector, horizon):
    """All possible episodes: probability, states, actions and rewards of each."""
    chances = policy(vector)

    def extended(probability, states, actions, rewards):
        for action, after in itertools.product(range(ACTIONS), range(STATES)):
            state = states[-1]
            share = probability * chances[state, action] * MOVES[state, action, after]
            now = (share, states, [*actions, action], [*rewards, REWARDS[state, action, after]])
            if TERMINAL[state, action, after] or len(now[2]) == horizon:
                yield now
            else:
                yield from extended(share, [*states, after], now[2], now[3])

    for state in range(STATES):
        yield from extended(START[state], [state], [], [])


def returns_by_hand(rewards, gamma):
    return [sum(gamma**k * reward for k, reward in enumerate(rewards[step:])) for step in range(len(rewards))]


class SmallMDP(VectorEnv):
    """The MDP as a vector environment; reaching the horizon is a truncation."""

    def __init__(self, num_envs=8, horizon=3, mode=AutoresetMode.SAME_STEP):
        self.num_envs, self.horizon, self.mode = num_envs, horizon, mode
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = gymnasium.spaces.Box(0.0, 1.0, (STATES,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.states = self.random.choice(STATES, self.num_envs, p=START)
        self.times = np.zeros(self.num_envs, int)
        self.waiting = np.zeros(self.num_envs, bool)
        return ONE_HOT[self.states], {}

    def step(self, actions):
        waiting = self.waiting
        cumulated = MOVES[self.states, actions].cumsum(1)
        after = (self.random.random((self.num_envs, 1)) > cumulated[:, :-1]).sum(1)
        rewards = np.where(waiting, 0.0, REWARDS[self.states, actions, after])
        self.times += 1
        terminated = TERMINAL[self.states, actions, after] & ~waiting
        truncated = (self.times >= self.horizon) & ~terminated & ~waiting
        ended = terminated | truncated
        fresh = waiting if self.mode == AutoresetMode.NEXT_STEP else ended
        infos = {}
        if self.mode == AutoresetMode.SAME_STEP and ended.any():
            infos = {"final_obs": ONE_HOT[after], "_final_obs": ended}
        self.states = np.where(fresh, self.random.choice(STATES, self.num_envs, p=START), after)
        self.times[fresh] = 0
        self.waiting = ended if self.mode == AutoresetMode.NEXT_STEP else waiting
        return ONE_HOT[self.states], rewards, terminated, truncated, infos


def one_hot(states):
    return torch.from_numpy(ONE_HOT[np.array(states)])
