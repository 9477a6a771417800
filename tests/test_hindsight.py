"""Hindsight replay against a slow loop over plain lists, and on a small world with goals."""

import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Spot
from gymnasium.vector.utils import batch_space

from gantry.agents.ddpg import DDPG, DDPGConfig
from gantry.agents.parts.hindsight import Hindsight, check_goals, for_each_pair, make_goals_relative
from gantry.agents.parts.replay import ReplayBuffer
from gantry.agents.parts.vector_stepper import Transition
from gantry.errors import GantryError
from gantry.spaces.maps import ObservationMap

BOX = gymnasium.spaces.Box(-9.0, 9.0, (2,), np.float32)
SPACE = gymnasium.spaces.Dict({"observation": BOX, "achieved_goal": BOX, "desired_goal": BOX})
ACHIEVED, DESIRED = slice(0, 2), slice(2, 4)  # Gymnasium sorts the keys
N, SLOTS = 3, 9


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def reward(achieved, desired, info):
    return -np.linalg.norm(achieved - desired, axis=-1)


def filled_buffer(count, seed=0):
    """A buffer after `count` vector steps of episodes of random lengths, and the same steps as a list."""
    random = np.random.default_rng(seed)
    buffer, steps = ReplayBuffer(SLOTS * N, N, 6, 1, 0.9), []
    observation = random.normal(size=(N, 6)).astype(np.float32)
    for _ in range(count):
        after = random.normal(size=(N, 6)).astype(np.float32)
        done = random.random(N) < 0.2
        envs = np.flatnonzero(done)
        final = random.normal(size=(len(envs), 6)).astype(np.float32)
        rewards = random.normal(size=N).astype(np.float32)
        transition = Transition(rewards, done & False, done, done | True, envs, final)
        buffer.add(observation, np.zeros((N, 1), np.float32), transition, after)
        led_to = after.copy()
        led_to[envs] = final
        steps.append((led_to, done))
        observation = after
    return buffer, steps


@pytest.mark.parametrize("count", [4, 9, 10, 31])
def test_relabeling_matches_naive_loop(count):
    buffer, steps = filled_buffer(count)
    indices = buffer.sample(400, generator(1))
    batch, original = buffer.gather(indices), buffer.gather(indices)
    Hindsight(SPACE, reward, goals=4).relabel(buffer, batch, generator(2))
    chance, position = torch.rand(2, 400, generator=generator(2), dtype=torch.float64).numpy()
    for index in range(400):
        expected = original.table[index].numpy().copy()
        if chance[index] < 0.8:
            slot, env = divmod(int(indices[index]), N)
            time = max(time for time in range(count) if time % SLOTS == slot)
            future = [time]
            while not steps[future[-1]][1][env] and future[-1] + 1 < count:
                future.append(future[-1] + 1)
            goal = steps[future[int(position[index] * len(future))]][0][env, ACHIEVED]
            observation, next_observation = expected[:6], expected[7:13]
            observation[DESIRED] = next_observation[DESIRED] = goal
            expected[13] = -np.linalg.norm(next_observation[ACHIEVED] - goal)
        np.testing.assert_allclose(batch.table[index].numpy(), expected, rtol=1e-6)


def for_one_pair(achieved, desired, info):
    """A reward that takes a batch for one pair of goals, as the whole batch's distance is one number."""
    return 0.0 if np.linalg.norm(achieved - desired) < 1.0 else -1.0


def only_for_one_pair(achieved, desired, info):
    """A reward that fails on a batch."""
    return 0.0 if all(np.abs(achieved - desired) < 1.0) else -1.0


@pytest.mark.parametrize("compute", [for_one_pair, only_for_one_pair])
def test_rewards_written_for_one_pair_of_goals_are_computed_pair_by_pair(compute):
    goals = np.random.default_rng(0).normal(size=(2, 50, 2)).astype(np.float32)
    expected = [compute(*pair, {}) for pair in zip(*goals, strict=True)]
    assert set(expected) == {0.0, -1.0}
    np.testing.assert_array_equal(for_each_pair(compute, *goals), expected)
    np.testing.assert_array_equal(for_each_pair(reward, *goals), reward(*goals, {}))


def test_rewards_that_are_no_numbers_are_refused():
    def none_at_all(achieved, desired, info):
        return None

    goals = np.zeros((3, 2), np.float32)
    with pytest.raises(GantryError, match="none_at_all gives no number"):
        for_each_pair(none_at_all, goals, goals)


def test_relabeled_transitions_end_where_their_goal_is_reached():
    buffer, _ = filled_buffer(9)
    batch = buffer.gather(torch.arange(9 * N).repeat(20))
    ends = lambda achieved, desired, info: np.linalg.norm(achieved - desired, axis=-1) < 1e-6  # noqa: E731
    Hindsight(SPACE, reward, goals=10**9, compute_terminated=ends).relabel(buffer, batch, generator())
    reached = (batch.next_observation[:, DESIRED] == batch.next_observation[:, ACHIEVED]).all(1)
    assert 0 < reached.sum() < len(reached)
    torch.testing.assert_close(batch.discount, torch.where(reached, 0.0, 0.9))


def test_end_flags_of_an_environment_are_used():
    class Ending(Line):
        """Episodes end at the goal."""

        def compute_terminated(self, achieved_goal, desired_goal, info):
            return bool(abs(achieved_goal[0] - desired_goal[0]) <= 0.1)  # for one pair

    for kind, ends in ((Ending, True), (Line, False)):
        agent = DDPG(gymnasium.vector.SyncVectorEnv([kind] * 8), CONFIG)
        agent.learn(400 - 8)
        batch = agent.replay.sample(200, 0.0)
        assert bool((batch.discount == 0.0).any()) == ends


def test_relabeled_goal_of_an_episodes_last_step_is_what_it_reached():
    buffer, steps = filled_buffer(9)
    last = [time * N + env for time in range(9) for env in range(N) if steps[time][1][env]]
    assert last
    batch = buffer.gather(torch.tensor(last * 50))
    Hindsight(SPACE, reward, goals=10**9).relabel(buffer, batch, generator())
    next_observation = batch.next_observation
    assert torch.equal(next_observation[:, DESIRED], next_observation[:, ACHIEVED])
    assert (batch.reward == 0).all()


class Line(gymnasium.Env):
    """A point on a line in [-1, 1] moves by up to 0.25 a step; reward 0 within 0.1 of the goal, else -1."""

    observation_space = gymnasium.spaces.Dict(
        {key: gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32) for key in SPACE.spaces}
    )
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def compute_reward(self, achieved_goal, desired_goal, info):
        return (np.abs(achieved_goal - desired_goal)[..., 0] <= 0.1) - 1.0

    def _observe(self):
        position = np.array([self.position], np.float32)
        return {"observation": position, "achieved_goal": position, "desired_goal": np.array([self.goal], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.goal = self.np_random.uniform(-1.0, 1.0, 2)
        self.time = 0
        return self._observe(), {}

    def step(self, action):
        self.position = float(np.clip(self.position + 0.25 * action[0], -1.0, 1.0))
        self.time += 1
        observation = self._observe()
        earned = self.compute_reward(observation["achieved_goal"], observation["desired_goal"], {})
        return observation, float(earned), False, self.time >= 15, {}


CONFIG = DDPGConfig(
    num_envs=8, hindsight_goals=4, learning_starts=400, batch_size=128, hidden_sizes=(64, 64), gamma=0.9,
    tau=0.02, noise_start=0.3,
)  # fmt: skip


@pytest.mark.parametrize("mode", [pytest.param(SAME_STEP, marks=pytest.mark.slow), NEXT_STEP], ids=str)
def test_hindsight_learns_from_a_sparse_reward(mode):
    env = gymnasium.vector.SyncVectorEnv([Line] * 8, autoreset_mode=mode)
    agent = DDPG(env, CONFIG)
    agent.learn(4_000)
    positions, goals = np.random.default_rng(0).uniform(-1.0, 1.0, (2, 200, 1)).astype(np.float32)
    for _ in range(12):
        actions = agent.act({"observation": positions, "achieved_goal": positions, "desired_goal": goals})
        positions = np.clip(positions + 0.25 * actions, -1.0, 1.0)
    assert (np.abs(positions - goals) <= 0.1).mean() > 0.9


def test_relative_goals_in_minibatches_after_relabeling():
    """Against samples of the same seed with absolute goals: observations differ, rewards do not."""
    settings = {"num_envs": 8, "hindsight_goals": 4, "learning_starts": 400, "hidden_sizes": (8,)}
    batches = []
    for relative in (False, True):
        agent = DDPG(gymnasium.vector.SyncVectorEnv([Line] * 8), DDPGConfig(**settings, relative_goals=relative))
        agent.learn(400 - 8)
        batches.append(agent.replay.sample(200, 0.0))
    shown, relative = batches
    for part in ("observation", "next_observation"):
        achieved, desired, observation = getattr(shown, part).T
        expected = torch.stack([achieved, desired - achieved, observation], 1)
        assert torch.equal(getattr(relative, part), expected)
    assert torch.equal(relative.reward, shown.reward)
    assert (relative.reward == 0).any()
    assert (relative.reward == -1).any()


def test_relative_goals_in_acting():
    """An actor with relative goals acts as one without that is given the difference in place of the desired goal."""
    observations = np.array([[0.25, -0.5, 0.25]], np.float32)
    relative = observations.copy()
    make_goals_relative(relative, ObservationMap(Line.observation_space))
    assert relative.tolist() == [[0.25, -0.75, 0.25]]
    actions = []
    for shown, given in ((True, observations), (False, relative)):
        agent = DDPG(gymnasium.vector.SyncVectorEnv([Line] * 8), DDPGConfig(num_envs=8, relative_goals=shown))
        achieved, desired, position = given.T
        parts = {"achieved_goal": achieved, "desired_goal": desired, "observation": position}
        actions.append(agent.act({key: part[:, None] for key, part in parts.items()}))
    np.testing.assert_array_equal(*actions)


def test_normalizer_sees_relative_goals():
    config = DDPGConfig(num_envs=8, relative_goals=True, normalize_observation=True, hidden_sizes=(8,), report_every=1)
    agent = DDPG(gymnasium.vector.SyncVectorEnv([Line] * 8), config)
    seen = []
    for count in range(1, 6):
        agent.stepper.begin_episodes()
        seen.append(agent.stepper.observation.copy())
        agent.learn(8 * count)
    achieved, desired, _ = np.concatenate(seen).T
    moments = agent.replay.normalizer.moments
    assert moments.mean[1] == pytest.approx((desired - achieved).mean(), abs=1e-6)
    assert moments.variance[1] == pytest.approx((desired - achieved).var(), abs=1e-6)


def test_compute_reward_is_the_simulators():
    import gantry.envs.simulator as simulators

    env = simulators.make_simulator("gantry/ReachGoal-v0", 2)
    achieved = np.array([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5]], np.float32)
    desired = achieved + np.array([[0.0, 0.0, 0.019], [0.0, 0.0, 0.021]], np.float32)
    np.testing.assert_array_equal(for_each_pair(env.compute_reward, achieved, desired), [0.0, -1.0])


def test_environments_without_goals_are_refused():
    with pytest.raises(GantryError, match="desired_goal"):
        DDPG(Spot(), CONFIG)
    with pytest.raises(GantryError, match="desired_goal"):
        DDPG(Spot(), DDPGConfig(relative_goals=True))
    with pytest.raises(GantryError, match="same shape"):
        check_goals(gymnasium.spaces.Dict({**SPACE.spaces, "desired_goal": gymnasium.spaces.Box(0, 1, (3,))}))

    class Rewardless(Spot):
        """Has goals but does not say what reaching them is worth."""

        def __init__(self):
            super().__init__()
            self.single_observation_space = SPACE
            self.observation_space = batch_space(SPACE, self.num_envs)

    with pytest.raises(GantryError, match="compute_reward"):
        DDPG(Rewardless(), CONFIG)


def test_hindsight_needs_one_step_returns():
    with pytest.raises(GantryError, match="n_step"):
        DDPGConfig(hindsight_goals=4, n_step=3)
