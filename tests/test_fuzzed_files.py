"""Mutated files of a run: every command, and every function that reads them, gives a result or one line."""

import json
import random
import re
import shutil

import gymnasium
import pytest
from agent_states import parameters, trainer_state

import gantry
from gantry.agents import config_class, load_agent
from gantry.cli import main
from gantry.envs import registry
from gantry.errors import GantryError
from gantry.runs.folder import Run
from gantry.runs.train import build_agent, train

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


def at_every_offset(content, rng, stride):
    """The content with a bit flipped in every `stride`-th byte, and cut there."""
    for offset in range(rng.randrange(stride), len(content), stride):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << rng.randrange(8)
        yield "flip", bytes(flipped)
        yield "cut", content[:offset]


@pytest.mark.parametrize(
    ("agent", "stride"),
    [("ppo", 101), *(pytest.param(agent, 3, marks=pytest.mark.slow) for agent in SETTINGS)],
)
def test_reading_mutated_files_gives_an_equal_result_or_one_line(agent, stride, tmp_path):
    rng, run = random.Random(stride), Run(tmp_path / "run")
    config = config_class(agent)(num_envs=2, **SETTINGS[agent])
    train(run, SHORT, agent, config, 20, env_options={"actions": "discrete"} if agent == "dqn" else {})
    counts = {"refused": 0, "equal": 0, "other": 0}
    for name, read in readers(run, build_agent(run.read_config())).items():
        path = run.folder / name
        content, expected = path.read_bytes(), read()
        mutations = [*at_every_offset(content, rng, stride)]
        mutations += [("any", mutated(content, rng)) for _ in range(len(mutations) // 4)]
        for kind, changed in mutations:
            path.write_bytes(changed)
            try:
                found = read()
            except GantryError as error:
                counts["refused"] += 1
                line = str(error)
                assert "\n" not in line
                assert len(line) < 1500
            except Exception as error:
                raise AssertionError(f"{name}, {kind}: {changed[:300]!r}") from error
            else:
                counts["equal" if found == expected else "other"] += 1
                # A table has no checksum; and config.json is read as it is where the line with its own is cut out.
                assert found == expected or name == "metrics.csv" or (name == "config.json" and kind == "any")
        path.write_bytes(content)
        assert read() == expected
    print(counts)
    assert counts["refused"] > sum(counts.values()) // 2
