"""Mutated files of a run: every command, and every function that reads them, gives a result or one line."""

import contextlib
import json
import random
import re
import shutil
import signal
from pathlib import Path

import gymnasium
import pytest
from agent_states import parameters, trainer_state

import gantry
from gantry.agents import config_class, load_agent
from gantry.cli import main
from gantry.envs import registry
from gantry.errors import GantryError
from gantry.files import config_from_json
from gantry.runs.folder import Run
from gantry.runs.train import build_agent, train

SHORT = "test/ShortSwing-v0"
FILES = ("config.json", "metrics.csv", "policy.json", "policy.safetensors", "trainer/state.safetensors")
ON_POLICY = {"rollout_steps": 4, "hidden_sizes": [4]}
OFF_POLICY = {"buffer_size": 64, "learning_starts": 4, "batch_size": 4, "report_every": 4, "hidden_sizes": [4]}
SETTINGS = {
    "ppo": {**ON_POLICY, "epochs": 1, "minibatch_size": 8},
    "recurrent-ppo": {**ON_POLICY, "epochs": 1, "memory_size": 4},
    "a2c": ON_POLICY,
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
"""Agent → settings that differ from its own."""
SECONDS = 20.0
"""Processor time that reading a file may take; it takes milliseconds."""
MEGABYTES = 64
"""Memory beyond what reading the whole file takes, at most."""
WORDS = (
    b"null", b"NaN", b"Infinity", b"1e999", b"-1", b"0", b"18446744073709551616", b"9" * 5000, b"true", b'"', b"[",
    b"{", b"[" * 20000, b"]" * 50, b"\0", b"\xff", b"", b'"\\ud800"', b",", b"\r\n", b'"seed"', b'"x"',
)  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
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


@pytest.fixture(scope="module", autouse=True)
def _short_task():
    gantry.register_task(SHORT, "gantry.envs.tasks.cart_pole:CartPole", max_episode_steps=5)
    yield
    del gymnasium.registry[SHORT], registry._specs[SHORT]


def small_run(folder, agent):
    """Train for a moment."""
    env_id, options = SHORT, {"actions": "discrete"} if agent == "dqn" else {}
    if agent == "q-learning":
        env_id, options = "FrozenLake-v1", {"max_episode_steps": 5}
    config = config_from_json(config_class(agent), {"num_envs": 2, **SETTINGS[agent]}, "the settings")
    train(run := Run(folder), env_id, agent, config, 20, env_options=options)
    return run


@contextlib.contextmanager
def bounded(case):
    """Refuse what takes long, in processor time."""

    def end(*_):
        raise AssertionError(f"{case} takes over {SECONDS} s")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def peak_megabytes(reset=False):
    """The most memory that this process has held since the last reset; 0 where the system does not say."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def score_of(folder, capsys):
    """What `gantry evaluate` prints last, or its exit status if that is not 0."""
    status = main(["evaluate", str(folder), "--episodes", "1", "--json"])
    if status:
        return status
    captured = capsys.readouterr()
    return {**json.loads(captured.out.splitlines()[-1]), "run": None}


def policy_after_resuming(folder):
    """The policy of the resumed run, or the exit status if that is not 0."""
    env_id = Run(folder.with_name("whole")).read_config().env_id
    status = main(["train", env_id, "--resume", "--out", str(folder), "--steps", "40"])
    return status or (folder / "policy.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("agent", "count"),
    [("ppo", 10), ("dqn", 5), *(pytest.param(agent, 150, marks=pytest.mark.slow) for agent in SETTINGS)],
)
def test_mutated_files_give_a_result_or_one_line(agent, count, tmp_path, capsys):
    rng, whole, folder = random.Random(count), tmp_path / "whole", tmp_path / "mutated"
    small_run(whole, agent)
    shutil.copytree(whole, tmp_path / "resumed")
    expected = {"evaluate": score_of(whole, capsys), "train": policy_after_resuming(tmp_path / "resumed")}
    capsys.readouterr()
    for number in range(count):
        shutil.copytree(whole, folder)
        name = FILES[number % len(FILES)]
        path = folder / name
        path.write_bytes(content := mutated(path.read_bytes(), rng))
        for command in ("evaluate", "train"):
            case = f"{number}: {command} with {name} of {content[:300]!r}"
            with bounded(case):
                result = score_of(folder, capsys) if command == "evaluate" else policy_after_resuming(folder)
            lines = capsys.readouterr().err.strip().splitlines()
            if isinstance(result, int):
                assert result == 1, case
                assert len(lines) == 1, f"{case}: {lines}"
            else:
                assert result == expected[command], case
        shutil.rmtree(folder)


def readers(run, agent):
    """File → what reads it, to something that can be compared."""

    def policy():
        return parameters(load_agent(run.folder)).tolist()

    def state():
        wall_seconds = run.load_checkpoint(agent)
        return wall_seconds, str({name: tensor.tolist() for name, tensor in trainer_state(agent).items()})

    return {
        "config.json": run.read_config,
        "metrics.csv": lambda: str(run.read_metrics()),
        "policy.json": policy,
        "policy.safetensors": policy,
        "trainer/state.safetensors": state,
    }


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


@pytest.mark.parametrize(
    ("agent", "count"),
    [("ppo", 40), *(pytest.param(agent, 300, marks=pytest.mark.slow) for agent in SETTINGS)],
)
def test_reading_mutated_files_gives_an_equal_result_or_one_line(agent, count, tmp_path):
    rng, run = random.Random(count), small_run(tmp_path / "run", agent)
    counts = dict.fromkeys(("refused", "equal", "another table", "config.json without its checksum"), 0)
    for name, read in readers(run, build_agent(run.read_config())).items():
        path = run.folder / name
        content, expected = path.read_bytes(), read()
        base = peak_megabytes(reset=True)
        for changed in mutations(content, rng, count):
            path.write_bytes(changed)
            try:
                with bounded(case := f"{name} of {changed[:300]!r}"):
                    found = read()
            except GantryError as error:
                counts["refused"] += 1
                line = str(error)
                assert "\n" not in line
                assert len(line) < 1500
            except Exception as error:
                raise AssertionError(case) from error
            else:
                if found == expected:
                    counts["equal"] += 1
                elif name == "metrics.csv":  # it has no checksum
                    counts["another table"] += 1
                else:
                    assert name == "config.json", case
                    assert b'"checksum"' not in changed, case
                    counts["config.json without its checksum"] += 1
            assert peak_megabytes() - base < MEGABYTES, case
        path.write_bytes(content)
        assert read() == expected
    print(counts)
    assert counts["refused"] > sum(counts.values()) // 2
