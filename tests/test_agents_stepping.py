import math

import gymnasium
import numpy as np
import pytest
import zoo
from agent_doubles import DISABLED, NEXT_STEP, SAME_STEP, Forgetful, Spot
from gymnasium.vector import SyncVectorEnv

from gantry.agents import PPO, A2CConfig
from gantry.agents.parts.vector_stepper import ResumableEnv, VectorStepper
from gantry.envs import make_vec
from gantry.errors import GantryError
from gantry.spaces.maps import Spaces


class Countdown(gymnasium.Env):
    """Observation: episode number and step within it; the episode ends after `length` steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length, terminal=False):
        self.length, self.terminal, self.episode = length, terminal, 0

    def reset(self, *, seed=None, options=None):
        self.episode += 1
        self.step_number = 0
        return np.array([self.episode, 0.0]), {}

    def step(self, action):
        self.step_number += 1
        over = self.step_number == self.length
        info = {"success": self.length == 2} if over else {}
        observation = np.array([self.episode, self.step_number])
        return observation, 1.0, over and self.terminal, over and not self.terminal, info


class LikeOurs(zoo.Walk):
    """Infos with names that ours or Gymnasium's have, and other contents."""

    def info(self):
        return {"cut": 7, "terms": 3.0, "steps": "many", "episode": None, "is_success": "perhaps"}


def countdowns(mode, lengths=(2, 3), terminal=False):
    return SyncVectorEnv([lambda n=n: Countdown(n, terminal) for n in lengths], autoreset_mode=mode)


def episodes_seen(mode, steps):
    """(row, observation, next observation, done) of every valid transition."""
    stepper = VectorStepper(countdowns(mode), 0)
    stepper.begin_episodes()
    seen = []
    for _ in range(steps):
        before = stepper.observation
        transition = stepper.step(np.zeros(2, np.int64))
        after = stepper.observation.copy()
        after[transition.final_envs] = transition.final_observations
        seen += [(row, *before[row], *after[row], transition.done[row]) for row in range(2) if transition.mask[row]]
    return [entry for entry in sorted(seen) if entry[1] <= 3]


def test_all_autoreset_modes_tell_the_same_story():
    expected = [
        (row, episode, step, episode, step + 1, step + 1 == length)
        for row, length in ((0, 2), (1, 3))
        for episode in (1, 2, 3)
        for step in range(length)
    ]
    for mode in (SAME_STEP, NEXT_STEP, DISABLED):
        assert episodes_seen(mode, 14) == expected


@pytest.mark.parametrize("objects", [False, True])
def test_final_observations_come_as_one_array_or_as_many(objects):
    stepper = VectorStepper(Spot(4, length=1, objects=objects), 0)
    stepper.begin_episodes()
    transition = stepper.step(np.zeros((4, 1), np.float32))
    assert transition.final_envs.tolist() == [0, 1, 2, 3]
    assert (transition.final_observations[:, 1] == 1.0).all()
    assert (stepper.observation[:, 1] == 0.0).all()


def test_final_observations_that_are_missing_are_missed():
    env = Spot(2, length=1)
    step = env.step
    env.step = lambda actions: (*step(actions)[:4], {})
    stepper = VectorStepper(env, 0)
    stepper.begin_episodes()
    with pytest.raises(GantryError, match="final_obs"):
        stepper.step(np.zeros((2, 1), np.float32))


def test_an_unstated_autoreset_mode_is_refused():
    env = Spot(2)
    env.metadata = {}
    with pytest.raises(GantryError, match="autoreset_mode"):
        VectorStepper(env, 0)


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP, DISABLED])
def test_first_episodes_are_staggered(mode):
    env = countdowns(mode, lengths=(8, 8, 8, 8))
    env.spec = gymnasium.envs.registration.EnvSpec("Countdown-v0", max_episode_steps=8)
    stepper = VectorStepper(env, 0, stagger=True)
    stepper.begin_episodes()
    ends = []
    for step in range(1, 17):
        transition = stepper.step(np.zeros(4, np.int64))
        ends += [(step, row) for row in transition.final_envs.tolist()]
        for row, final in zip(transition.final_envs, transition.final_observations, strict=True):
            assert final[0] == (1 if step <= 8 else 2)
            assert stepper.observation[row][0] == final[0] + (mode != NEXT_STEP or step < 8)
    assert ends[:4] == [(2, 0), (4, 1), (6, 2), (8, 3)]
    assert [step for step, _ in ends[4:7]] == [10, 12, 14]
    # Episodes that we cut are not counted; the last row's cut falls on its own end.
    assert stepper.metrics()["length_mean"] == 8.0


def test_staggering_an_environment_that_resets_all_rows_happens_once():
    env = Spot(4, length=100)
    env.spec = gymnasium.envs.registration.EnvSpec("Spot-v0", max_episode_steps=100)
    reset = env.reset
    env.reset = lambda seed=None, options=None: reset(seed=seed)
    stepper = VectorStepper(env, 0, stagger=True)
    stepper.begin_episodes()
    ends = []
    for step in range(1, 60):
        transition = stepper.step(np.zeros((4, 1), np.float32))
        ends += [(step, row) for row in transition.final_envs.tolist()]
    assert ends == [(25, row) for row in range(4)]


def test_episode_metrics_are_those_of_the_last_hundred_finished_episodes():
    stepper = VectorStepper(countdowns(SAME_STEP), 0)
    stepper.begin_episodes()
    assert np.isnan(stepper.metrics()["return_mean"])
    finished = []
    for step in range(1, 145):
        stepper.step(np.zeros(2, np.int64))
        finished += [length for length in (2, 3) if step % length == 0]
    metrics = stepper.metrics()
    assert metrics["steps"] == 288.0
    assert metrics["episodes"] == len(finished) == 72 + 48
    assert metrics["length_mean"] == metrics["return_mean"] == pytest.approx(np.mean(finished[-100:]))
    assert metrics["reward_mean"] == 1.0
    assert metrics["success_mean"] == pytest.approx(np.mean(np.array(finished[-100:]) == 2))


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP, DISABLED])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [(zoo.SuccessObjects, 1.0), (zoo.SuccessOnlyIfTrue, 0.5), (LikeOurs, np.nan), (zoo.InfoText, np.nan)],
)
def test_success_counts_however_the_environment_says_it(mode, kind, expected):
    stepper = VectorStepper(SyncVectorEnv([kind] * 4, autoreset_mode=mode), 0)
    stepper.begin_episodes()
    for _ in range(40):
        stepper.step(np.ones(4, np.int64))
    metrics = stepper.metrics()
    assert metrics["episodes"] >= 24
    assert metrics["success_mean"] == pytest.approx(expected, abs=0.3, nan_ok=True)
    assert metrics["success_mean"] != 1.0 or expected == 1.0


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (zoo.NaNObserved, "observations that are NaN"),
        (zoo.InfObserved, "observations that are NaN"),
        (zoo.RewardNaN, "rewards that are NaN"),
        (zoo.RewardInf, "rewards that are NaN"),
        (zoo.RewardNone, "rewards that are NaN"),
    ],
)
def test_numbers_that_are_not_finite_stop_at_the_step_that_brought_them(kind, said):
    stepper = VectorStepper(SyncVectorEnv([zoo.Walk, kind], autoreset_mode=SAME_STEP), 0)

    def play():
        stepper.begin_episodes()
        for _ in range(5):
            stepper.step(np.ones(2, np.int64))

    with pytest.raises(GantryError, match=f"environment gave {said}.*environment 1"):
        play()
    assert np.isfinite(stepper.observation).all()


def test_restored_stepper_continues_exactly():
    actions = np.full((6, 1), 0.3, np.float32)
    stepper = VectorStepper(Spot(6, mode=NEXT_STEP), 3)
    stepper.begin_episodes()
    for _ in range(7):
        stepper.step(actions)
    tensors = stepper.state()
    expected = [stepper.step(actions).rewards for _ in range(9)]
    other = VectorStepper(Spot(6, mode=NEXT_STEP), 8)
    other.load_state(tensors)
    np.testing.assert_array_equal(expected, [other.step(actions).rewards for _ in range(9)])
    assert other.steps == stepper.steps
    assert isinstance(Spot(), ResumableEnv)
    assert not isinstance(Forgetful(), ResumableEnv)


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP])
def test_budget_masks_the_steps_beyond_it(mode):
    stepper = VectorStepper(Spot(6, length=3, mode=mode), 0)
    stepper.begin_episodes()
    while stepper.steps < 40:
        before = stepper.steps
        transition = stepper.step(np.zeros((6, 1), np.float32), 40 - before)
        assert stepper.steps - before == transition.mask.sum() <= 40 - before
    assert stepper.steps == 40
    only = np.arange(6) == 2
    assert (stepper.step(np.zeros((6, 1), np.float32), only=only).mask <= only).all()


def test_rollback_returns_to_the_mark():
    actions = np.full((4, 1), -0.2, np.float32)
    stepper = VectorStepper(Spot(4), 0)
    stepper.begin_episodes()
    stepper.step(actions)
    stepper.mark()
    expected = [stepper.step(actions).rewards for _ in range(8)]
    stepper.rollback()
    assert stepper.steps == 4
    np.testing.assert_array_equal(expected, [stepper.step(actions).rewards for _ in range(8)])


def test_spaces_stand_in_for_an_environment_that_is_not_stepped():
    env = Spot(3)
    stepper = VectorStepper(Spaces(env.single_observation_space, env.single_action_space, 3), 0)
    assert stepper.observation.shape == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"config": {"num_envs": 2}}, "the settings of this agent are a PPOConfig, not .'num_envs': 2"),
        ({"config": A2CConfig()}, "the settings of this agent are a PPOConfig, not A2CConfig"),
        ({"seed": -1}, "seed must be a whole number from 0 to"),
        ({"seed": 2**70}, "seed must be a whole number from 0 to"),
        ({"seed": None}, "seed must be a whole number from 0 to"),
    ],
)
def test_agents_refuse_settings_of_another_kind_and_odd_seeds(arguments, line):
    with pytest.raises(GantryError, match=line):
        PPO(make_vec("CartPole-v1", 2), **arguments)


@pytest.mark.parametrize("steps", ["100", None, math.nan, [1]])
def test_learning_for_what_is_no_number_of_steps_is_one_line(steps):
    with pytest.raises(GantryError, match="total_steps must be a number of environment steps"):
        PPO(make_vec("CartPole-v1", 2)).learn(steps)
