"""What the fuzzing tests share: a short task, small runs of every agent, mutated bytes, bounds on time and memory."""

import contextlib
import re
import signal
from pathlib import Path

import gymnasium

import gantry
from gantry.agents import config_class
from gantry.envs import registry
from gantry.files import config_from_json
from gantry.runs.folder import Run
from gantry.runs.train import train

SHORT = "fuzzed/ShortSwing-v0"
ON_POLICY = {"rollout_steps": 4, "hidden_sizes": [4]}
OFF_POLICY = {"buffer_size": 64, "learning_starts": 4, "batch_size": 4, "report_every": 4, "hidden_sizes": [4]}
SETTINGS = {
    "ppo": {**ON_POLICY, "epochs": 1, "minibatch_size": 8},
    "recurrent-ppo": {**ON_POLICY, "epochs": 1, "memory_size": 4},
    "a2c": {**ON_POLICY, "report_every": 2},
    "reinforce": {"episodes": 2, "hidden_sizes": [4]},
    **dict.fromkeys(("dqn", "ddpg", "td3", "sac"), OFF_POLICY),
    "cem": {},
    "nes": {},
    "planner": {
        "search": {"horizon": 3, "population": 8, "iterations": 1, "elites": 2},
        "model": {"ensemble_size": 2, "hidden_sizes": [4], "gradient_steps": 2},
        "initial_random_steps": 8, "fit_every": 8,
    },
    "q-learning": {"report_steps": 4},
}  # fmt: skip
"""Agent → settings that differ from its own, so that it learns in moments."""
WORDS = (
    b"null", b"NaN", b"Infinity", b"1e999", b"-1", b"0", b"18446744073709551616", b"9" * 5000, b"true", b'"', b"[",
    b"{", b"[" * 20000, b"]" * 50, b"\0", b"\xff", b"", b'"\\ud800"', b",", b"\r\n", b'"seed"', b'"x"', b"{}", b"[]",
)  # fmt: skip


@contextlib.contextmanager
def short_task():
    """Register a task whose episodes have five steps."""
    gantry.register_task(SHORT, "gantry.envs.tasks.cart_pole:CartPole", max_episode_steps=5)
    yield
    del gymnasium.registry[SHORT], registry._specs[SHORT]


def small_config(agent):
    """Settings with which an agent learns in moments."""
    return config_from_json(config_class(agent), {"num_envs": 2, **SETTINGS[agent]}, "the settings")


def small_run(folder, agent, steps=20, **more):
    """Train for a moment."""
    env_id, options = SHORT, {"actions": "discrete"} if agent == "dqn" else {}
    if agent == "q-learning":
        env_id, options = "FrozenLake-v1", {"max_episode_steps": 5}
    train(run := Run(folder), env_id, agent, small_config(agent), steps, env_options=options, **more)
    return run


def mutated(content, rng):
    """Return a file's content cut, flipped, with a part doubled or removed, or with an odd word in place of another."""
    data = bytearray(content)
    start = rng.randrange(len(data))
    end = start + rng.randrange(60)
    kind = rng.choice(("cut", "flip", "word", "double", "remove", "number", "name"))
    if kind == "cut":
        del data[start:]
    elif kind == "flip":
        data[start] ^= 1 << rng.randrange(8)
    elif kind == "word":
        data[start : start + rng.randrange(9)] = rng.choice(WORDS)
    elif kind == "double":
        data[start:start] = data[start:end]
    elif kind == "remove":
        del data[start:end]
    else:
        pattern = rb"-?\d+(\.\d+)?" if kind == "number" else rb'"\w+"'
        if found := list(re.finditer(pattern, content[:20_000])):
            match = rng.choice(found)
            data[match.start() : match.end()] = rng.choice(WORDS)
    return bytes(data)


def mutations(content, rng, count):
    """The content with a bit flipped at random places, cut there, and changed in other ways: five for every two places.

    A file that is shorter than `count` is flipped and cut at every byte.
    """
    for offset in rng.sample(range(len(content)), min(count, len(content))):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << rng.randrange(8)
        yield bytes(flipped)
        yield content[:offset]
        if offset % 2:
            yield mutated(content, rng)


class TooLongError(BaseException):
    """A case has taken its time."""


@contextlib.contextmanager
def limited(seconds):
    """Interrupt what takes more processor time, or thirty times as long on the clock, by TooLongError."""

    def end(*_):
        raise TooLongError

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, 30.0 * seconds))
    before = [signal.signal(kind, end) for kind, _, _ in timers]
    for _, timer, length in timers:
        signal.setitimer(timer, length)
    try:
        yield
    finally:
        for (kind, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0.0)
            signal.signal(kind, handler)


def peak_megabytes(reset=False):
    """The most memory that this process has held since the last reset; 0 where the system does not say."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
