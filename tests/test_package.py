"""The package: what a wheel holds, what importing costs, and that parts meet only where they may."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gantry
import gantry.agents
from gantry.cli import COMMANDS
from scripts import house

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_works_outside_the_repository(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "gantry", source / "gantry", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("gantry_rl-*.whl")
    with zipfile.ZipFile(wheel) as archive:  # installing a wheel of Python alone is no more
        archive.extractall(site)
    program = (
        "import gantry, gymnasium, pathlib\n"
        f"assert pathlib.Path(gantry.__file__).is_relative_to({str(site)!r}), gantry.__file__\n"
        "assert pathlib.Path(gantry.__file__).with_name('py.typed').exists()\n"
        "from gantry.envs.registry import registered_tasks\n"
        "for environment in registered_tasks():\n"
        "    env = gymnasium.make(environment)\n"
        "    env.reset(seed=0)\n"
        "    env.step(env.action_space.sample())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


FLOORS = (
    {"assets", "errors", "types"},
    {"files", "machine", "settings", "spaces"},
    {"optimizers"},
    {"envs", "agents"},
    {"runs"},
    {"film", "plots", "optimal_control", "minimization", "export", "view"},
    {"transfer"},
    {"benchmark"},
    {"cli"},
)
"""The packages and modules of `gantry`, from the ground up: each imports only what is on its own floor or below."""
APART = {("agents", "envs"), ("envs", "agents")}


def test_imports_point_down_and_agents_and_environments_never_meet():
    known = house.modules()
    floor = {part: number for number, parts in enumerate(FLOORS) for part in parts}
    seen = set()
    for name, path in known.items():
        part = name.partition(".")[2].partition(".")[0]
        if part in ("", "__main__"):  # the package's face, which only hands on
            continue
        seen.add(part)
        for imported in house.imports(path, known, typing_only=True):
            other = imported.partition(".")[2].partition(".")[0]
            if other == "":
                assert part in ("cli", "runs"), f"{name} imports the package's face"  # for its version
                continue
            assert floor[other] <= floor[part], f"{name} imports {imported}, which is above it"
            assert (part, other) not in APART, f"{name} imports {imported}"
    assert seen == set().union(*FLOORS)


def test_imports_have_no_circles():
    known = house.modules()
    graph = {name: house.imports(path, known) for name, path in known.items()}
    assert house.circles(graph) == []


def test_the_house_stays_within_its_bounds(capsys):
    house.main()
    bounded = re.findall(r"^(.*): (\d+)(?: lines)? \(at most ([\d,]+)\)$", capsys.readouterr().out, re.M)
    assert len(bounded) == 4
    for what, found, most in bounded:
        assert int(found) <= int(most.replace(",", "")), what


def test_the_root_holds_a_handful_of_modules():
    assert {path.name for path in (REPOSITORY / "gantry").glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "errors.py",
        "files.py",
        "types.py",
    }


def test_law_of_imports_sees_what_breaks_it(tmp_path):
    """The two tests above can fail: a small package with an upward, a lazy, a typing-only and a circular import."""
    package = tmp_path / "gantry"
    (package / "runs").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "runs" / "__init__.py").write_text("from typing import TYPE_CHECKING\n")
    (package / "runs" / "a.py").write_text("def f():\n    from gantry.runs import b\n")
    (package / "runs" / "b.py").write_text(
        "from typing import TYPE_CHECKING\nfrom gantry.runs.a import f\nif TYPE_CHECKING:\n    import gantry.cli\n"
    )
    (package / "cli.py").touch()
    known = house.modules(package)
    assert house.imports(known["gantry.runs.a"], known) == {"gantry.runs.b"}
    assert house.imports(known["gantry.runs.b"], known) == {"gantry.runs.a"}
    assert house.imports(known["gantry.runs.b"], known, typing_only=True) == {"gantry.runs.a", "gantry.cli"}
    graph = {name: house.imports(path, known) for name, path in known.items()}
    assert house.circles(graph) == [["gantry.runs.a", "gantry.runs.b"]]


HEAVY = {"torch", "mujoco", "matplotlib", "scipy", "imageio"}


def modules_after(program: str) -> set[str]:
    """The modules that a new process has imported when `program` has run."""
    program = f"{program}\nimport sys; print('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


WORDS = [
    *([command, "--help"] for command in COMMANDS),
    ["list"],
    ["train", "--agent", "dqn"],
    ["train", "NoSuchThing-v0"],
    ["train", "CartPole-v1", "--agent", "nobody"],
    ["evaluate", "no/such/run"],
    ["record", "no/such/run"],
    ["table", "no/such/run"],
]


def test_commands_read_arguments_before_importing_torch_or_mujoco():
    """All in one process, so that the first that imports too much is the one that is named."""
    program = (
        "import sys\n"
        "from gantry.cli import main\n"
        f"for words in {WORDS!r}:\n"
        "    try:\n"
        "        main(words)\n"
        "    except SystemExit:\n"
        "        pass\n"
        f"    heavy = {HEAVY!r} & set(sys.modules)\n"
        "    assert not heavy, (words, heavy)\n"
    )
    assert not HEAVY & modules_after(program)


def test_imports_of_the_package_are_lazy():
    program = (
        "import sys\n"
        "import gantry, gantry.agents, gantry.envs, gantry.runs.environments; dir(gantry.agents)\n"
        f"assert not {HEAVY!r} & set(sys.modules), set(sys.modules)\n"
        "import gantry.runs.train, gantry.runs.evaluation_callback\n"
        "assert 'scipy.stats' not in sys.modules\n"
        "from gantry.agents import PPO, PPOConfig, A2C; PPOConfig(num_envs=3)\n"
    )
    assert "torch" in modules_after(program)


def test_public_names_can_be_imported():
    for package in (gantry, gantry.agents):
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="NoSuchName"):
            _ = package.NoSuchName


def test_every_agent_is_exported_with_its_settings():
    assert gantry.agents.AGENTS.keys() == gantry.agents.CONFIGS.keys() == gantry.agents.DESCRIPTIONS.keys()
    for name in gantry.agents.AGENTS:
        for found in (gantry.agents.agent_class(name), gantry.agents.config_class(name)):
            assert found.__name__ in gantry.agents.__all__
            assert getattr(gantry.agents, found.__name__) is found
        assert gantry.agents.agent_of_config(gantry.agents.default_config(name)) == name


def test_gymnasium_module_prefix_registers_the_ids():
    program = "import gymnasium; gymnasium.make('gantry:gantry/CartPoleSwingUp-v0').reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_links_at_the_top_point_into_the_package():
    for name in ("envs", "agents", "assets"):
        assert (REPOSITORY / name).resolve() == (REPOSITORY / "gantry" / name).resolve()
        assert (REPOSITORY / name).is_symlink()


@pytest.mark.parametrize("setting", ["osmesa", pytest.param("egl", marks=pytest.mark.slow), "nonsense"])
def test_unusable_mujoco_gl_breaks_no_command(setting):
    """MuJoCo itself fails at import where the library that MUJOCO_GL names is missing."""
    done = subprocess.run(
        [sys.executable, "-c", "import gantry.film.record"],
        env={**os.environ, "MUJOCO_GL": setting},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
