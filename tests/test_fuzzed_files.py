"""Mutated files of a run: every command, and every function that reads them, gives a result or one line."""

import json
import random
import shutil

import pytest
from agent_states import parameters, trainer_state
from fuzzing import SETTINGS, TooLongError, limited, mutated, mutations, peak_megabytes, short_task, small_run

from gantry.agents import load_agent
from gantry.cli import main
from gantry.errors import GantryError
from gantry.runs.folder import Run
from gantry.runs.train import build_agent

FILES = ("config.json", "metrics.csv", "policy.json", "policy.safetensors", "trainer/state.safetensors")
SECONDS = 20.0
"""Processor time that reading a file may take; it takes milliseconds."""
MEGABYTES = 64
"""Memory beyond what reading the whole file takes, at most."""


@pytest.fixture(scope="module", autouse=True)
def _short_task():
    with short_task():
        yield


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
            try:
                with limited(SECONDS):
                    result = score_of(folder, capsys) if command == "evaluate" else policy_after_resuming(folder)
            except (Exception, TooLongError) as error:
                raise AssertionError(case) from error
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
                case = f"{name} of {changed[:300]!r}"
                with limited(SECONDS):
                    found = read()
            except GantryError as error:
                counts["refused"] += 1
                line = str(error)
                assert "\n" not in line
                assert len(line) <= 1500
            except (Exception, TooLongError) as error:
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
