"""Steps of different durations: PPO, DQN and Q-learning discount by γ to the time that each took."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from gantry.agents.a2c import A2C, A2CConfig
from gantry.agents.dqn import DQN, DQNConfig
from gantry.agents.parts.advantages import gae
from gantry.agents.parts.normalization import discounted_sums
from gantry.agents.parts.replay import ReplayBuffer
from gantry.agents.parts.vector_stepper import Transition
from gantry.agents.ppo import PPO, PPOConfig
from gantry.agents.q_learning import QLearning, QLearningConfig
from gantry.agents.recurrent_ppo import RecurrentPPO, RecurrentPPOConfig

GAMMA = 0.9
STATES, ACTIONS = 6, 2
NEXT = np.array([[1, 3], [2, 4], [3, 0], [4, 5], [5, 1], [0, 0]])
"""(S, A); the last state is terminal."""
TIMES = np.array([[1, 4], [1, 2], [3, 1], [1, 7], [2, 1], [1, 1]])
REWARDS = np.array([[0.0, 1.0], [0.5, -1.0], [0.0, 0.2], [0.1, 3.0], [2.0, 0.0], [0.0, 0.0]])


class TimedChain(VectorEnv):
    """A chain whose actions take different times; every other episode begins in state 2."""

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.single_observation_space = gymnasium.spaces.Discrete(STATES)
        self.single_action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.states = np.zeros(num_envs, np.int64)

    def reset(self, *, seed=None, options=None):
        self.states = np.arange(self.num_envs) % (STATES - 1)
        return self.states.copy(), {}

    def step(self, actions):
        cell = self.states, np.asarray(actions)
        rewards, elapsed = REWARDS[cell], TIMES[cell]
        last = NEXT[cell]
        ended = last == STATES - 1
        self.states = np.where(ended, self.states[::-1] % (STATES - 1), last)
        infos = {"elapsed_steps": elapsed}
        if ended.any():
            infos |= {"final_obs": last.copy(), "_final_obs": ended}
        return self.states.copy(), rewards, ended, np.zeros(self.num_envs, bool), infos


def values_by_iteration(gamma):
    """Q*(s, a) of the chain, (S, A)."""
    q = np.zeros((STATES, ACTIONS))
    for _ in range(500):
        best = q.max(1)
        best[STATES - 1] = 0.0
        q = REWARDS + gamma**TIMES * best[NEXT]
    return q[:-1]


def test_gae_with_discounts_of_each_step_matches_naive_loop():
    rng = np.random.default_rng(0)
    steps, envs, lam = 7, 3, 0.8
    rewards, values, next_values = rng.normal(size=(3, steps, envs))
    terminated, cut = rng.random((2, steps, envs)) < 0.2
    done = terminated | cut
    gammas = GAMMA ** rng.integers(1, 9, (steps, envs))
    found = gae(rewards, values, next_values, terminated, done, gamma=gammas, lam=lam)
    for env in range(envs):
        for start in range(steps):
            total, weight = 0.0, 1.0
            for t in range(start, steps):
                bootstrap = 0.0 if terminated[t, env] else next_values[t, env]
                total += weight * (rewards[t, env] + gammas[t, env] * bootstrap - values[t, env])
                weight *= gammas[t, env] * lam
                if done[t, env]:
                    break
            assert found[start, env] == pytest.approx(total, abs=1e-12)


def test_discounted_sums_with_discounts_of_each_step():
    rewards, done = np.ones((3, 1)), np.array([[False], [True], [False]])
    sums, carried = discounted_sums(rewards, done, np.array([2.0]), np.array([[0.5], [0.25], [0.1]]))
    assert sums[:, 0].tolist() == [2.0, 1.5, 1.0]
    assert carried.tolist() == [1.0]


def test_returns_of_several_timed_steps_match_hand_computation():
    buffer = ReplayBuffer(40, 1, 1, 1, GAMMA, n_step=3)
    nobody = np.zeros(0, np.int64)
    rewards, times, ends = [1.0, 2.0, 4.0, 8.0, 16.0], [3, 1, 2, 5, 1], [False, False, False, True, False]
    for step, (reward, time, ended) in enumerate(zip(rewards, times, ends, strict=True)):
        here, after = np.array([[step]], np.float32), np.array([[step + 1]], np.float32)
        envs = np.array([0]) if ended else nobody
        transition = Transition(
            np.array([reward], np.float32), np.array([ended]), np.array([ended]), np.ones(1, bool), envs,
            after[envs], np.array([time]),
        )  # fmt: skip
        buffer.add(here, np.zeros(1), transition, after)
    batch = buffer.gather(torch.arange(5))
    expected = [
        (1.0 + GAMMA**3 * 2.0 + GAMMA**4 * 4.0, GAMMA**6, 3.0),
        (2.0 + GAMMA * 4.0 + GAMMA**3 * 8.0, 0.0, 4.0),
        (4.0 + GAMMA**2 * 8.0, 0.0, 4.0),
        (8.0, 0.0, 4.0),
        (16.0, GAMMA, 5.0),
    ]
    found = torch.stack([batch.reward, batch.discount, batch.next_observation[:, 0]], 1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("replay_batches", [0, 4])
def test_q_learning_finds_the_values_of_a_semi_markov_chain(replay_batches):
    config = QLearningConfig(
        gamma=GAMMA, learning_rate_start=1.0, learning_rate_end=1.0, epsilon_end=1.0, replay_batches=replay_batches
    )
    agent = QLearning(TimedChain(8), config)
    agent.learn(8 * (60 if replay_batches else 200))
    np.testing.assert_allclose(agent.table[:-1], values_by_iteration(GAMMA), rtol=1e-5)
    # the rule that ignores time finds others
    assert (
        np.abs(REWARDS[:-1] + GAMMA * np.append(agent.table[:-1].max(1), 0)[NEXT[:-1]] - agent.table[:-1]).max() > 0.1
    )


def test_dqn_learns_the_values_of_a_semi_markov_chain():
    config = DQNConfig(
        gamma=GAMMA, learning_starts=64, buffer_size=2000, gradient_steps=8, batch_size=64, hidden_sizes=(32,),
        learning_rate=3e-3, learning_rate_schedule="linear", epsilon_end=1.0, n_step=1, target_update_interval=25,
    )  # fmt: skip
    agent = DQN(TimedChain(8), config, seed=1)
    agent.learn(8 * 150)
    found = agent.action_values(np.arange(STATES - 1))
    np.testing.assert_allclose(found, values_by_iteration(GAMMA), atol=0.15)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (PPO, PPOConfig(gamma=GAMMA, gae_lambda=1.0, rollout_steps=6, normalize_return=False)),
        (A2C, A2CConfig(gamma=GAMMA, gae_lambda=1.0, rollout_steps=6, normalize_return=False)),
    ],
)
def test_targets_of_rollouts_match_hand_computation(kind, config):
    agent = kind(TimedChain(4), config)
    agent.stepper.begin_episodes()
    rollout = agent.rollout
    rollout.collect(24)
    batch = rollout.batch(agent.critic, agent.return_normalizer, config.gamma, config.gae_lambda)
    with torch.no_grad():
        bootstrap = agent.critic(rollout.inputs[6])[:, 0].numpy()
    states, actions = rollout.observations[:6].argmax(2), rollout.samples.numpy()
    targets = batch.target.reshape(6, 4).numpy()
    for env in range(4):
        value = bootstrap[env]
        for time in range(5, -1, -1):
            cell = states[time, env], actions[time, env]
            value = REWARDS[cell] + (0.0 if NEXT[cell] == STATES - 1 else GAMMA ** TIMES[cell] * value)
            assert targets[time, env] == pytest.approx(value, abs=1e-5)


def test_targets_of_sequences_match_hand_computation():
    config = RecurrentPPOConfig(gamma=GAMMA, gae_lambda=1.0, rollout_steps=24, normalize_return=False, memory_size=4)
    agent = RecurrentPPO(TimedChain(4), config)
    agent.stepper.begin_episodes()
    part, known = agent.collect(96), 0
    states, actions = agent.rollout.observations[:24].argmax(2), part.samples.numpy()
    for env in range(4):
        value = np.nan  # of what follows the rollout
        for time in range(23, -1, -1):
            cell = states[time, env], actions[time, env]
            value = REWARDS[cell] + (0.0 if NEXT[cell] == STATES - 1 else GAMMA ** TIMES[cell] * value)
            if np.isfinite(value):
                known += 1
                assert part.target[time, env].item() == pytest.approx(value, abs=1e-5)
    assert known > 48


def test_metrics_count_the_time_of_episodes():
    agent = PPO(TimedChain(4), PPOConfig(gamma=GAMMA, rollout_steps=8))
    agent.learn(4 * 8)
    first, lengths = agent.stepper.metrics(), agent.rollout.elapsed[agent.rollout.mask].sum()
    assert agent.steps == 32
    assert 0 < first["length_mean"] * first["episodes"] <= lengths
