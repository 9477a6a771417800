"""Help, completion, doctor, inspect, and the exit codes of the command line."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import torch
import tyro
from rich.console import Console
from safetensors.torch import save_file

from gantry import cli
from gantry.benchmark import installation
from gantry.benchmark.installation import Check
from gantry.cli import COMMANDS
from gantry.cli.arguments import arguments_of, flags_of
from gantry.cli.completion import SHELLS, completion
from gantry.cli.help import help_text
from gantry.cli.output import watched
from gantry.errors import GantryError
from gantry.film.video import VideoWriter

ROOT = Path(__file__).resolve().parent.parent


def run(*words):
    """Run a command; return its exit code, also where it exits as argparse does."""
    try:
        return cli.main([*words])
    except SystemExit as stopped:
        return stopped.code or 0


# --- help -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Search:
    """Nested settings."""

    population: int = 64
    """Plans in a generation."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Do something with a thing that takes more than a line to explain, so that this paragraph has to be wrapped.

    Example:

      gantry example THING --count 3 --mode slow --a-flag-that-would-be-far-too-long-for-one-line-of-a-terminal yes
    """

    thing: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="THING")]
    """What it is done with."""
    mode: Literal["fast", "slow"] | None = None
    """How."""
    size: tuple[int, int] | None = None
    """Two numbers."""
    many: tuple[str, ...] = ()
    """Any number of words."""
    rate: float = 3e-4
    """How fast."""
    shout: bool = False
    """Off where nobody asks."""
    draw: bool = True
    """On where nobody asks."""
    search: Search = Search()
    """Nested settings."""


@pytest.fixture
def text(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    return help_text(Arguments, "example")


def test_help_is_wrapped_but_commands_are_whole(text):
    long = [line for line in text.splitlines() if len(line) > 70]
    assert [line.split()[0] for line in long] == ["gantry"]
    assert "to explain, so\nthat this paragraph has to be wrapped." in text


def test_help_shows_what_is_required_and_no_none(text):
    lines = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert "usage: gantry example THING [OPTIONS]" in text
    assert lines["THING"].endswith("(required)")
    assert "{fast,slow}" in lines["--mode"]
    assert "INT INT" in lines["--size"]
    assert "TEXT …" in lines["--many"]
    assert "(default: 0.0003)" in lines["--rate"]
    assert lines["--shout"].split()[1] == "Off"
    assert "--draw, --no-draw" in text
    assert "settings, search:" in text
    assert "--search.population" in text
    assert "None" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_explains_every_flag(command, capsys):
    assert run("help", command) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: gantry {command}")
    for flag in flags_of(arguments_of(command)):
        assert flag.meaning, flag.name
        assert flag.positional or flag.name in text
    assert "None}" not in text
    assert run(command, "--help") == 0
    assert capsys.readouterr().out == text


def test_help_lists_an_agents_settings(capsys):
    assert run("train", "Pendulum-v1", "--agent", "sac", "--help") == 0
    text = capsys.readouterr().out
    assert "--config.gamma FLOAT" in text
    assert "TrainArguments" not in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "CartPole-v1", "--algo=sac"], "gantry train: write --agent for --algo"),
        (["train", "CartPole-v1", "--total_timesteps", "9"], "gantry train: write --steps for --total_timesteps"),
        (["train", "CartPole-v1", "--lr", "3e-4"], "gantry train: write --config.learning-rate for --lr"),
    ],
)
def test_flags_of_other_suites_are_answered_with_ours(words, line, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(words)
    assert capsys.readouterr().err.splitlines()[-1] == line


def test_whole_numbers_are_refused_with_what_was_typed(capsys):
    assert cli.main(["train", "CartPole-v1", "--steps", "10x"]) == 1
    assert "gantry: '10x' is not a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "record", "collect", "transfer", "view", "tune", "solve", "info"])
def test_what_a_command_is_about_may_follow_its_options(tmp_path, monkeypatch, capsys, command):
    """`--env a=1 RUN`: RUN is not one of the environment's options."""
    monkeypatch.chdir(tmp_path)
    needed = {"collect": ["--out", "data-v0"], "transfer": ["--physics", "cart_mass=1..2"], "tune": ["--trials", "1"]}
    assert cli.main([command, *needed.get(command, []), "--env", "a=1", "b=2", "nowhere-v0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere-v0" in line
    assert "name=value" not in line


def test_help_of_an_unknown_command_says_which_there_are(capsys):
    assert run("help", "trian") == 1
    assert "did you mean train" in capsys.readouterr().err


def test_bars_are_shown_in_terminals_and_notebooks(capsys):
    assert watched(Console(force_jupyter=True))
    assert watched(Console(force_terminal=True))
    assert not watched(Console())


# --- completion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_names_commands_flags_and_values(shell, capsys):
    script = completion(shell, COMMANDS)
    for word in (*COMMANDS, "gantry/CartPoleSwingUp-v0", "ppo", "raycast", "no-overlay"):
        assert word in script, word
    assert run("--print-completion", shell) == 0
    assert capsys.readouterr().out == script


BEGUN = [
    (["rec"], {"record"}),
    (["record", "--slow"], {"--slow-motion"}),
    (["record", "x", "--renderer", "ra"], {"raycast"}),
    (["train", "gantry/CartPoleSw"], {"gantry/CartPoleSwingUp-v0", "gantry/CartPoleSwingUpSparse-v0"}),
    (["train", "--agent", "sa"], {"sac"}),
    (["evaluate", "some"], set()),
]
"""The words of a command line, the last one begun, and what may follow."""
ZSH = """
compdef() { : }
_files() { : }
compadd() { [[ $1 == -- ]] && shift; print -l -- ${(M)@:#$PREFIX*} }
_describe() { compadd ${${(P)2}%%:*} }
"""
"""What zsh's completion system gives a script."""


def completed(shell, words, folder):
    """Return what a shell offers to complete the last word."""
    line = ["gantry", *words]
    (folder / "gantry").write_text(completion(shell, COMMANDS))
    listed = " ".join(f"'{word}'" for word in line)
    program = {
        "bash": f'source ./gantry; COMP_WORDS=({listed}); COMP_CWORD={len(words)}; _gantry; echo "${{COMPREPLY[@]}}"',
        "zsh": f"{ZSH}source ./gantry; words=({listed}); CURRENT={len(line)}; PREFIX={words[-1]}; _gantry",
        "fish": f"source ./gantry; complete --do-complete '{' '.join(line)}' | string replace --regex '\\t.*' ''",
    }[shell]
    done = subprocess.run([shell, "-c", program], cwd=folder, capture_output=True, text=True, check=shell != "fish")
    return set(done.stdout.split())


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("words", "expected"), BEGUN)
def test_completion_offers_what_may_follow(shell, words, expected, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    assert completed(shell, words, tmp_path) == expected


def test_fish_completion_is_made_of_whole_commands():
    known = {"complete": {"-c", "-n", "-f", "-a", "-d", "-l", "-xa", "-r"}}
    offered = {}
    for line in completion("fish", COMMANDS).splitlines()[1:]:
        command, *words = shlex.split(line)
        flags = [word for word in words if re.fullmatch(r"-\w+", word)]
        assert set(flags) <= known[command], line
        condition, _, name = words[words.index("-n") + 1].partition(" ")
        assert condition in ("__fish_use_subcommand", "__fish_seen_subcommand_from"), line
        if "-l" in words:
            offered.setdefault(name, set()).add(words[words.index("-l") + 1])
    assert offered["record"] >= {"slow-motion", "no-overlay", "progress"}
    assert {*COMMANDS} <= {*offered, "help", "list", "demo", "doctor", "table"}


def test_zsh_completion_closes_what_it_opens():
    script = re.sub(r"'[^']*'", "quoted", completion("zsh", COMMANDS))
    assert script.count("'") == 0
    for opened, closed in (("case ", "esac"), ("if ", "fi"), ("{", "}")):
        starts = re.findall(rf"(?:^|[;\s]){re.escape(opened)}", script)
        assert len(starts) == len(re.findall(rf"(?:^|[;\s]){closed}(?=$|[;\s])", script)), opened
    assert script.count('"') % 2 == 0


def test_completion_is_installed_where_the_shell_looks(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert run("--install-completion", "bash") == 0
    assert (tmp_path / "data/bash-completion/completions/gantry").read_text() == completion("bash", COMMANDS)
    assert run("--install-completion", "zsh") == 0
    assert (tmp_path / "data/zsh/site-functions/_gantry").exists()
    assert run("--install-completion") == 0
    assert (tmp_path / "config/fish/completions/gantry.fish").exists()
    assert run("--install-completion", "powershell") == 1
    assert "bash, zsh, fish" in capsys.readouterr().err


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor_knows_the_packages_that_the_project_names(monkeypatch):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = installation.requirements()
    assert {"mujoco", "torch", "imageio-ffmpeg"} <= set(found[""])
    assert "stable-baselines3" in found["baselines"]
    assert found.keys() - {""} == project["optional-dependencies"].keys() - {*installation.DEVELOPMENT}
    # Installed, there is no project file, but the same in the package's metadata.
    lines = ["numpy>=2", 'ray>=2; extra == "cluster"', "pytest; extra == 'dev'", 'gantry-rl[x]; extra == "all"']
    monkeypatch.setattr(installation, "PROJECT", Path("no/such/file"))
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    assert installation.requirements() == {"": ["numpy"], "cluster": ["ray"]}


def test_doctor_tests_training_and_filming(capsys, monkeypatch):
    monkeypatch.setattr(installation, "SELF_TEST_STEPS", 300)
    assert run("doctor", "--json") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out.splitlines()[-1])
    found = {check["name"]: check for check in report["checks"]}
    assert report["healthy"]
    assert found["self-test"]["state"] == found["renderer raycast"]["state"] == found["disk"]["state"] == "ok"
    assert np.__version__ == found["numpy"]["found"]
    assert all(check["remedy"] for check in report["checks"] if check["state"] != "ok")


def test_doctor_ends_with_1_where_something_needed_is_broken(capsys, monkeypatch):
    monkeypatch.setattr(installation, "requirements", lambda: {"": ["no-such-package"]})
    monkeypatch.setattr(installation, "_self_test", lambda: Check("self-test", "left out"))
    assert run("doctor") == 1
    captured = capsys.readouterr()
    assert "pip install no-such-package" in captured.out
    assert "broken: no-such-package" in captured.err


# --- inspect --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["--agent", "cem", "--steps", "40", "--num-envs", "2", "--out", str(folder), "--env", "max_episode_steps=5"]
    assert cli.main(["train", "gantry/CartPoleBalance-v0", *words]) == 0
    return folder


def inspected(path, capsys):
    assert run("inspect", str(path), "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_inspect_tells_what_a_run_holds(trained, capsys):
    found = inspected(trained, capsys)
    assert found["run"]["environment"] == "gantry/CartPoleBalance-v0"
    assert found["run"]["agent"] == found["policy"]["agent"] == "cem"
    assert found["run"]["options"] == {"max_episode_steps": 5}
    assert found["policy"]["observation_space"] == "Box (5,) float32"
    assert found["policy"]["checksum"] == found["trainer"]["checksum"] == "fits"
    assert len(found["networks"]) == found["policy"]["tensors"]
    assert inspected(trained / "policy.safetensors", capsys)["policy"] == found["policy"]
    assert "checksum" in inspected(trained / "trainer" / "state.safetensors", capsys)["tensors"]
    assert inspected(trained / "config.json", capsys)["config.json"]["env_options.max_episode_steps"] == 5
    assert "of the last training episodes" in found["run"]["score"]
    assert run("inspect", str(trained)) == 0
    assert "CartPoleBalance" in capsys.readouterr().out


def test_inspect_tells_what_a_film_holds(tmp_path, capsys):
    with VideoWriter(tmp_path / "film.mp4", 30, (64, 48)) as writer:
        for _ in range(15):
            writer.add(np.zeros((48, 64, 3), np.uint8))
    found = inspected(tmp_path / "film.mp4", capsys)["film"]
    assert (found["width"], found["height"], found["frames"]) == (64, 48, 15)
    assert found["seconds"] == pytest.approx(0.5)


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)


def test_inspect_answers_damage_with_one_line(trained, tmp_path, capsys):
    for name in ("policy.safetensors", "trainer/state.safetensors", "policy.json", "config.json"):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(trained, folder)
        damage(folder / name)
        assert run("inspect", str(folder)) == 1
        error = capsys.readouterr().err
        assert "damaged" in error, name
        assert error.count("\n") == 1
    (tmp_path / "film.mp4").write_bytes(b"no film")
    (tmp_path / "notes.txt").write_text("no file of ours")
    for name in ("film.mp4", "notes.txt", "nothing", "nu\0ll", ""):
        assert run("inspect", str(tmp_path / name)) == 1
        error = capsys.readouterr().err
        assert error.startswith("gantry: ")
        assert error.count("\n") == 1


def test_inspect_executes_nothing(tmp_path, capsys):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "policy.safetensors")  # a pickle under another name
    assert run("inspect", str(tmp_path / "policy.safetensors")) == 1
    assert "cannot read" in capsys.readouterr().err  # policy.json is missing, and nothing was loaded
    torch.save({"weights": torch.zeros(2)}, tmp_path / "state.safetensors")
    assert run("inspect", str(tmp_path / "state.safetensors")) == 1
    assert "no safetensors file" in capsys.readouterr().err


def test_inspect_reads_tensors_without_a_checksum(tmp_path, capsys):
    tensors = {"part.a": torch.zeros(2, 3), "part.b": torch.zeros(4)}
    save_file(tensors, tmp_path / "numbers.safetensors")
    found = inspected(tmp_path / "numbers.safetensors", capsys)["tensors"]
    assert found["checksum"] == "none"
    assert found["part"].startswith("2 tensors, 10 numbers")


# --- exit codes -----------------------------------------------------------------------------------------------------


def raising(error):
    def run_command(words):
        raise error

    return run_command


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["list"], 0),
        (["--help"], 0),
        (["train", "--help"], 0),
        (["evaluate", "no/such/run"], 1),
        (["train", "NoSuchThing-v0"], 1),
        ([], 2),
        (["no-such-command"], 1),
        (["record"], 2),
        (["list", "--no-such-flag"], 2),
        (["evaluate", "run", "--episodes", "many"], 2),
    ],
)
def test_exit_codes(words, code, capsys):
    assert run(*words) == code
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GantryError("bad input"), 1),
        (OSError("a full disk"), 1),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
    ],
)
def test_exit_codes_of_what_goes_wrong(error, code, monkeypatch, capfd):
    monkeypatch.setattr("gantry.cli.list.main", raising(error))
    monkeypatch.setattr("gantry.cli._discard_output", lambda: None)
    assert run("list") == code
    assert capfd.readouterr().err.count("\n") == (0 if code == 141 else 1)


def test_exit_codes_are_documented():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for code in ("0", "1", "2", "130", "141"):
        assert f"| {code} |" in page


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "CartPole-v1", "--evaluate-episodes", "20"], "without --evaluate-every or --until"),
        (["train", "CartPole-v1", "--keep-schedules"], "give it with --resume"),
        (["train", "CartPole-v1", "--name=a", "--out", "x"], "leave one of them away"),
        (["train", "CartPole-v1", "--num-envs", "2", "--config.num-envs", "4"], "say the same thing"),
        (["solve", "gantry/CartPoleSwingUp-v0", "--speed", "2"], "--speed does nothing without --film"),
        (["drive", "x", "--seed", "3"], "without --explore"),
        (["view", "CartPole-v1", "--allow-network"], "without --host"),
        (["benchmark", "--report-only", "--seeds", "3"], "--seeds is for trainings"),
        (["benchmark", "--include", "a=b", "--agents", "ppo"], "--agents is for trainings"),
        (["bench", "optimizers", "--seeds", "3"], "--seeds is of `gantry bench train`"),
        (["bench", "envs", "--no-peers"], "--no-peers is of"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(words, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line
    assert list(tmp_path.iterdir()) == []


def test_wrong_choices_are_answered_with_the_right_ones_alone(capsys):
    for words in (["--disturb", "wind"], ["--disturb=wind"]):
        with pytest.raises(SystemExit):
            cli.main(["evaluate", "x", *words])
        assert capsys.readouterr().err == "gantry evaluate: --disturb takes pushes or balls, not 'wind'\n"
