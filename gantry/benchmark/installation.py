"""Checks of an installation: packages, cores, graphics, video encoder, disk, and a self-test from training to film."""

import dataclasses
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from gantry.errors import GantryError, described, shown
from gantry.runs.folder import Run, current_versions

PACKAGE, DEVELOPMENT = "gantry-rl", ("dev", "docs")
"""The distribution's name, and the extras that only its developers need."""
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
"""The project's file, where Gantry runs from its source."""
NEEDED_SPACE = 1e9
"""Free disk space in bytes below which long trainings may not be saved."""
SELF_TEST_STEPS = 2_000


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    found: str
    state: str = "ok"
    """ok, optional (missing, but only some commands need it) or broken."""
    remedy: str = ""
    """How to get what is missing."""


def checks() -> Iterator[Check]:
    """Yield what was found, one check after another; the self-test, which takes seconds, is the last."""
    yield Check("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Check("gantry", current_versions()["gantry"])
    needed = requirements()
    for name in needed.pop("", []):
        version = _version(name)
        remedy = f"pip install {name}"
        yield Check(name, version, *(("broken", remedy) if version == "missing" else ()))
    for extra, names in needed.items():
        found = {name: _version(name) for name in names}
        told = ", ".join(f"{name} {version}" for name, version in found.items())
        lacks = "missing" in found.values()
        yield Check(f"extra {extra}", told, *(("optional", f"pip install 'gantry-rl[{extra}]'") if lacks else ()))
    for look in (_cores, _gpu, _encoder, _disk):
        yield _safely(look)
    for backend in ("egl", "osmesa", "raycast"):
        yield _renderer(backend)
    yield _safely(_self_test)


def requirements() -> dict[str, list[str]]:
    """Return the packages that each extra needs, and under the empty name those that Gantry cannot do without."""
    if PROJECT.exists():
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
        groups = {"": project["dependencies"], **project["optional-dependencies"]}
        lines = [(extra, line) for extra, group in groups.items() for line in group]
    else:
        marked = [
            (line, re.search(r"extra == [\"'](.*?)[\"']", line)) for line in importlib.metadata.requires(PACKAGE) or ()
        ]
        lines = [(found[1] if found else "", line) for line, found in marked]
    found: dict[str, list[str]] = {}
    for extra, line in lines:
        name = re.match(r"[\w.-]+", line)
        if extra not in DEVELOPMENT and name is not None and name[0] != PACKAGE:
            found.setdefault(extra, []).append(name[0])
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _safely(look: Callable[[], Check]) -> Check:
    """Return a check; one that fails in a way of its own is broken, and says how."""
    try:
        return look()
    except Exception as error:
        name = look.__name__.strip("_").replace("_", "-")
        return Check(name, shown(described(error)), "broken", "reinstall: pip install --force-reinstall gantry-rl")


def _cores() -> Check:
    import torch

    from gantry.machine.cores import available_cores

    given = os.environ.get("OMP_NUM_THREADS")
    told = f", OMP_NUM_THREADS={given}" if given else ""
    found = f"{available_cores()} usable of {os.cpu_count()}; PyTorch uses {torch.get_num_threads()} threads{told}"
    return Check("cores", found)


def _gpu() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check("gpu", torch.cuda.get_device_name(0))
    return Check("gpu", "none, which no agent needs")


def _encoder() -> Check:
    import imageio_ffmpeg

    try:
        return Check("video encoder", f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}")
    except (RuntimeError, OSError):
        return Check("video encoder", "missing", "broken", "pip install --force-reinstall imageio-ffmpeg")


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 1e9:.1f} GB free in {shown(Path.cwd())}"
    if not os.access(Path.cwd(), os.W_OK):
        return Check("disk", f"{found}, which cannot be written", "broken", "go to a folder that you can write to")
    if free < NEEDED_SPACE:
        return Check("disk", found, "broken", "free some space: a training saves every ten seconds")
    return Check("disk", found)


def _renderer(backend: str) -> Check:
    import mujoco

    from gantry.envs.rendering import make_renderer

    packages = {"egl": "libegl1 libgl1", "osmesa": "libosmesa6"}
    name = f"renderer {backend}"
    try:
        model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
        with make_renderer(model, 64, 48, backend=backend) as renderer:
            data = mujoco.MjData(model)
            renderer.render(data)
            started = time.perf_counter()
            renderer.render(data)
            return Check(name, f"draws 64 × 48 pixels in {1e3 * (time.perf_counter() - started):.1f} ms")
    except GantryError as error:
        if backend not in packages:
            return Check(name, shown(error), "broken", "reinstall: pip install --force-reinstall mujoco")
        found = shown(error).removesuffix("; choose raycast, which needs no graphics library, or auto")
        return Check(name, found, "optional", f"apt install {packages[backend]} (the ray caster draws without it)")


def _self_test() -> Check:
    """Train, load, evaluate and film, as the commands do, in a folder that is removed afterwards."""
    from gantry.agents import default_config, load_agent
    from gantry.film.record import record
    from gantry.runs.evaluate import evaluate_agent
    from gantry.runs.train import train

    started, env_id = time.perf_counter(), "gantry/CartPoleBalance-v0"
    options = {"max_episode_steps": 50}
    with tempfile.TemporaryDirectory(prefix="gantry-doctor-") as folder:
        run = Run(Path(folder) / "run")
        try:
            train(run, env_id, "ppo", default_config("ppo"), SELF_TEST_STEPS, 0, options)
        finally:
            run.release()
        agent = load_agent(run.folder)
        score = evaluate_agent(agent, env_id, 4, 0, options).score
        film = record(agent, env_id, Path(folder) / "film.mp4", env_options=options, size=(64, 48), backend="raycast")
    seconds = time.perf_counter() - started
    return Check(
        "self-test",
        f"trained, saved, loaded, evaluated ({score:.0f}) and filmed {film.frames} frames in {seconds:.1f} s",
    )
