"""Environments that others made give their state away and take it back, so that runs in them resume exactly."""

import contextlib
import random
from collections import deque

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from zoo import zoo_id

from gantry.agents.dqn import DQNConfig
from gantry.agents.ppo import PPOConfig
from gantry.errors import GantryError
from gantry.runs.environments import open_env
from gantry.runs.folder import WALL_CLOCK_COLUMNS, Run
from gantry.runs.train import resume, train

SMALL = PPOConfig(num_envs=2, rollout_steps=16, epochs=1, minibatch_size=32, hidden_sizes=(4,))
SMALLEST = {
    "ppo": SMALL,
    "dqn": DQNConfig(num_envs=2, hidden_sizes=(4,), batch_size=4, learning_starts=8, buffer_size=64, report_every=16),
}
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


class Odd(gymnasium.Env):
    """A random walk that keeps itself in an odd place."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, place):
        self.place = place
        self.begin, self.go, self.look = PLACES[place]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.begin(self)
        return self.look(self), {}

    def step(self, action):
        self.go(self, self.np_random.normal(size=2))
        return self.look(self), 0.0, False, False, {}

    def up(self):
        self.now, self.phase = self.now + 1.0, self.up if self.now.sum() < 6.0 else self.down

    def down(self):
        self.now, self.phase = self.now - 2.0, self.down if self.now.sum() > 0.0 else self.up


class Brownian:
    """A callable with a state."""

    def __init__(self):
        self.position = np.zeros(2)

    def __call__(self, change):
        self.position += change
        return self.position


def _set(**values):
    return lambda env: [setattr(env, name, make(env)) for name, make in values.items()]


def _pendulum_step(env, change):
    env.now = env.subs["a"].step(change[:1].astype(np.float32))[0][:2].astype(np.float64)


PLACES = {  # begin, go, look; those that cannot be read come last
    "one array under two names": (
        _set(now=lambda _: np.zeros(2), last=lambda env: env.now),
        lambda env, change: _set(last=lambda env: env.now, now=lambda env: env.now + change)(env),
        lambda env: env.now + 2.0 * env.last,
    ),
    "one list under two names": (
        _set(path=lambda _: [], seen=lambda env: env.path),
        lambda env, change: env.path.append(change[0]),
        lambda env: np.array([sum(env.seen), len(env.seen)], np.float64),
    ),
    "among constants": (
        _set(parts=lambda env: {"space": env.action_space, "now": [len, np.zeros(2)]}),
        lambda env, change: env.parts["now"].__setitem__(1, env.parts["now"][1] + change),
        lambda env: env.parts["now"][1],
    ),
    "deque": (
        _set(recent=lambda _: deque([np.zeros(2)], maxlen=3)),
        lambda env, change: env.recent.append(change),
        lambda env: sum(env.recent),
    ),
    "method": (
        _set(now=lambda _: np.zeros(2), phase=lambda env: env.up),
        lambda env, _: env.phase(),
        lambda env: env.now,
    ),
    "callable": (
        _set(motion=lambda _: Brownian()),
        lambda env, change: env.motion(change),
        lambda env: env.motion.position.copy(),
    ),
    "method of another object": (
        _set(now=lambda _: np.zeros(2), draw=lambda _: random.Random(3).random),
        lambda env, _: _set(now=lambda env: env.now + env.draw())(env),
        lambda env: env.now,
    ),
    "environment in a dictionary": (
        lambda env: (
            _set(subs=lambda _: {"a": gymnasium.make("Pendulum-v1")}, now=lambda _: np.zeros(2))(env),
            env.subs["a"].reset(seed=1),
        ),
        _pendulum_step,
        lambda env: env.now,
    ),
}
READ, UNREAD = [*PLACES][:5], [*PLACES][5:]


def wrapped(place=None):
    env = gymnasium.wrappers.NormalizeObservation(gymnasium.make("Pendulum-v1").unwrapped)
    return gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.FrameStackObservation(env, 3))


@pytest.fixture(scope="module", autouse=True)
def _registered():
    entries = {"test/Opaque-v0": Opaque, "test/Flaky-v0": Flaky, "test/Odd-v0": Odd, "test/Wrapped-v0": wrapped}
    for env_id, entry in entries.items():
        gymnasium.register(env_id, entry, max_episode_steps=40)
    yield
    for env_id in entries:
        del gymnasium.registry[env_id]


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


class Flaky(CartPoleEnv):
    """Fails in one step, and then no more, or in every reset as well."""

    left, dead = 0, False

    def reset(self, *, seed=None, options=None):
        if Flaky.dead:
            raise OSError("the line is dead")
        return super().reset(seed=seed)

    def step(self, action):
        Flaky.left -= 1
        if Flaky.left == 0:
            Flaky.dead = self.dies
            raise OSError("the line broke")
        return super().step(action)

    def __init__(self, dies=False):
        super().__init__()
        self.dies = dies


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["one-reading", "many-readings"])
@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_broken_update_is_undone_exactly(agent, share, tmp_path, monkeypatch):
    monkeypatch.setattr("gantry.runs.environment_state.READING_SHARE", share or 1e-9)
    runs = [Run(tmp_path / name) for name in ("unbroken", "broken")]
    for run, fails_at in zip(runs, (0, 100), strict=True):
        Flaky.left, Flaky.dead = fails_at, False
        with contextlib.suppress(GantryError):
            train(run, "test/Flaky-v0", agent, SMALLEST[agent], 160)
    assert 0 < runs[1].read_metrics()[-1]["steps"] < 100
    said = []
    resume(runs[1], say=said.append)
    assert said == []
    assert rows(runs[1]) == rows(runs[0])
    first, second = ((run.folder / "policy.safetensors").read_bytes() for run in runs)
    assert first == second


def test_what_was_learned_is_saved_where_an_environment_dies(tmp_path):
    run = Run(tmp_path / "run")
    Flaky.left, Flaky.dead = 100, False
    with pytest.raises(GantryError, match=r"failed in step\(\): OSError: the line broke"):
        train(run, "test/Flaky-v0", "ppo", SMALL, 160, env_options={"dies": True})
    saved = run.read_metrics()[-1]["steps"]
    assert saved == 96
    Flaky.dead = False
    assert resume(run, say=lambda line: None).steps == 160


def test_run_in_an_environment_of_unknown_state_says_that_it_begins_anew(tmp_path):
    run, said = stopped_and_resumed(tmp_path / "stopped", "test/Opaque-v0", SMALL, 160)
    (line,) = said
    assert "new episodes begin here" in line
    assert run.read_metrics()[-1]["steps"] == 160


CASES = [(env_id, {}) for env_id in [*GYMNASIUM, *MUJOCO, "test/Wrapped-v0"]]
CASES += [("test/Odd-v0", {"place": place}) for place in READ]
CASES += [(zoo_id("Cyclic"), {}), (zoo_id("Queued"), {})]


@pytest.mark.parametrize(("env_id", "options"), CASES, ids=str)
def test_restored_environment_goes_on_as_the_first(env_id, options):
    def opened():
        env = open_env(env_id, 2, options)
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


@pytest.mark.parametrize("place", [None, *UNREAD])
def test_unknown_state_is_none_at_all(place):
    env = open_env("test/Opaque-v0", 2) if place is None else open_env("test/Odd-v0", 2, {"place": place})
    env.reset(seed=0)
    assert env.get_state() == {}
