"""The package: what a wheel holds, what importing costs, and that parts meet only where they may."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def test_a_wheel_works_outside_the_repository_assets_included(tmp_path):
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "gantry", source / "gantry", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("gantry-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True)
    program = (
        "import gantry, gymnasium, pathlib\n"
        f"assert pathlib.Path(gantry.__file__).is_relative_to({str(site)!r}), gantry.__file__\n"
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


@pytest.mark.parametrize(("package", "forbidden"), [("agents", "gantry.envs"), ("envs", "gantry.agents")])
def test_agents_and_environments_never_import_each_other(package, forbidden):
    files = list((REPOSITORY / "gantry" / package).rglob("*.py"))
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not any(name.startswith(forbidden) for name in names), file


def test_importing_gymnasium_by_the_module_prefix_registers_the_ids():
    program = "import gymnasium; gymnasium.make('gantry:gantry/CartPoleSwingUp-v0').reset(seed=0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_links_at_the_top_point_into_the_package():
    for name in ("envs", "agents", "assets"):
        assert (REPOSITORY / name).resolve() == (REPOSITORY / "gantry" / name).resolve()
        assert (REPOSITORY / name).is_symlink()


@pytest.mark.parametrize("setting", ["osmesa", "egl", "nonsense"])
def test_a_graphics_setting_of_mujocos_that_cannot_work_breaks_no_command(setting):
    """MuJoCo itself fails at import where the library that MUJOCO_GL names is missing."""
    done = subprocess.run(
        [sys.executable, "-c", "import gantry.film.record"],
        env={**os.environ, "MUJOCO_GL": setting},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
