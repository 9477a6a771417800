"""Environments that others made give their state away and take it back, so that runs in them resume exactly."""

import gymnasium
import numpy as np
import pytest

from gantry.agents.ppo import PPOConfig
from gantry.errors import GantryError
from gantry.runs.environments import open_env
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from gantry.runs.train import resume, train

SMALL = PPOConfig(num_envs=2, rollout_steps=16, epochs=1, minibatch_size=32, hidden_sizes=(4,))
GYMNASIUM = ["Pendulum-v1", "CartPole-v1", "Acrobot-v1", "MountainCarContinuous-v0", "FrozenLake-v1", "Blackjack-v1"]
MUJOCO = ["InvertedPendulum-v5", "Reacher-v5", "Hopper-v5", "Ant-v5"]


class Opaque(gymnasium.Env):
    """Keeps its state where nobody can read it."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.hidden = iter(self.np_random.uniform(-1.0, 1.0, (50, 2)).astype(np.float32))
        return next(self.hidden), {}

    def step(self, action):
        return next(self.hidden), float(action), False, False, {}


@pytest.fixture(scope="module", autouse=True)
def _opaque():
    gymnasium.register("test/Opaque-v0", Opaque, max_episode_steps=40)
    yield
    del gymnasium.registry["test/Opaque-v0"]


def rows(run):
    return str([{k: v for k, v in row.items() if k not in WALL_CLOCK_COLUMNS} for row in run.read_metrics()])


def stopped_and_resumed(folder, env_id, config, steps):
    run, said = Run(folder), []

    def stop(row):
        if row["steps"] > steps / 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run, env_id, "ppo", config, steps, progress=stop)
    resume(run, say=said.append)
    return run, said


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "CartPole-v1", "InvertedPendulum-v5"])
def test_resumed_run_in_a_foreign_environment_equals_an_unbroken_one(env_id, tmp_path):
    unbroken = Run(tmp_path / "unbroken")
    train(unbroken, env_id, "ppo", SMALL, 160)
    run, said = stopped_and_resumed(tmp_path / "stopped", env_id, SMALL, 160)
    assert said == []
    assert rows(run) == rows(unbroken)
    assert (run.folder / "policy.safetensors").read_bytes() == (unbroken.folder / "policy.safetensors").read_bytes()


def test_run_in_an_environment_of_unknown_state_says_that_it_begins_anew(tmp_path):
    run, said = stopped_and_resumed(tmp_path / "stopped", "test/Opaque-v0", SMALL, 160)
    (line,) = said
    assert "new episodes begin here" in line
    assert run.read_metrics()[-1]["steps"] == 160


@pytest.mark.parametrize("env_id", [*GYMNASIUM, *MUJOCO])
def test_restored_environment_goes_on_as_the_first(env_id):
    def opened():
        env = open_env(env_id, 2)
        env.reset(seed=3)
        env.action_space.seed(0)
        return env

    first, second = opened(), opened()
    actions = [first.action_space.sample() for _ in range(30)]
    for action in actions[:13]:
        first.step(action)
    second.set_state(first.get_state())
    for action in actions[13:]:
        for ours, theirs in zip(first.step(action)[:4], second.step(action)[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    first.close()
    second.close()


@pytest.mark.parametrize(
    "attributes",
    [b"", b"[]", b"{}", b"[{}]", b'[{"no_such": 1}]', b"[1, 2]", b'[{"steps": {"array": "none"}}]', b"[[[[", b"\xff"],
)
def test_damaged_state_is_one_line(attributes):
    env = open_env("CartPole-v1", 2)
    env.reset(seed=0)
    state = {**env.get_state(), "attributes": np.frombuffer(attributes, np.uint8)}
    with pytest.raises(GantryError, match="to take back its state") as caught:
        env.set_state(state)
    assert "\n" not in str(caught.value)


def test_unknown_state_is_none_at_all():
    env = open_env("test/Opaque-v0", 2)
    env.reset(seed=0)
    assert env.get_state() == {}
