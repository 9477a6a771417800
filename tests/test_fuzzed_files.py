"""Mutated files of a run: every command gives a result or one line, never a traceback."""

import json
import random
import re
import shutil

import gymnasium
import pytest

import gantry
from gantry.agents import config_class
from gantry.cli import main
from gantry.envs import registry
from gantry.runs.folder import Run
from gantry.runs.train import train

SHORT = "test/ShortSwing-v0"
FILES = ("config.json", "metrics.csv", "policy.json", "policy.safetensors", "trainer/state.safetensors")
SETTINGS = {
    "ppo": {"rollout_steps": 4, "epochs": 1, "minibatch_size": 8, "hidden_sizes": (4,)},
    "dqn": {"buffer_size": 64, "learning_starts": 4, "batch_size": 4, "report_every": 4, "hidden_sizes": (4,)},
    "ddpg": {"buffer_size": 64, "learning_starts": 4, "batch_size": 4, "report_every": 4, "hidden_sizes": (4,)},
    "cem": {},
}
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


def score_of(folder, capsys):
    """What `gantry evaluate` prints last, or its exit status if that is not 0."""
    status = main(["evaluate", str(folder), "--episodes", "1", "--json"])
    if status:
        return status
    captured = capsys.readouterr()
    return {**json.loads(captured.out.splitlines()[-1]), "run": None}


def policy_after_resuming(folder):
    """The policy of the resumed run, or the exit status if that is not 0."""
    status = main(["train", SHORT, "--resume", "--out", str(folder), "--steps", "40"])
    return status or (folder / "policy.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("agent", "count"),
    [("ppo", 10), ("dqn", 5), *(pytest.param(agent, 1000, marks=pytest.mark.slow) for agent in SETTINGS)],
)
def test_mutated_files_give_a_result_or_one_line(agent, count, tmp_path, capsys):
    rng, whole, folder = random.Random(count), tmp_path / "whole", tmp_path / "mutated"
    options = {"actions": "discrete"} if agent == "dqn" else {}
    config = config_class(agent)(num_envs=2, **SETTINGS[agent])
    train(Run(whole), SHORT, agent, config, 20, env_options=options)
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
            result = score_of(folder, capsys) if command == "evaluate" else policy_after_resuming(folder)
            lines = capsys.readouterr().err.strip().splitlines()
            if isinstance(result, int):
                assert result == 1, case
                assert len(lines) == 1, f"{case}: {lines}"
            else:
                assert result == expected[command], case
        shutil.rmtree(folder)
