"""`gantry bench rendering`: how fast the ray caster draws, beside itself drawing every pixel anew and beside OpenGL."""

from collections.abc import Callable, Sequence

import mujoco
import numpy as np

from gantry.benchmark.rows import Report, Row, median_rate, median_ratio, rounds
from gantry.envs.capabilities import drawing
from gantry.envs.rendering import Renderer, make_renderer
from gantry.envs.rendering.raycast import RaycastRenderer
from gantry.envs.rendering.scene import RenderScene
from gantry.envs.simulator import Simulator, make_simulator
from gantry.errors import GantryError

WORLDS = ("gantry/CartPoleSwingUp-v0", "gantry/Reach-v0", "gantry/Vacuum-v0")
SIZE = (480, 360)
PICTURES = 10
"""Pictures of one timed block."""
STEPS = 4
"""Control steps between two pictures."""


def measure(report: Report, worlds: Sequence[str] = WORLDS, size: tuple[int, int] = SIZE, repeats: int = 3) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        worlds: environments whose pictures are drawn.
        size: width and height of a picture, pixels.
        repeats: rounds of each comparison; medians are reported.
    """
    for env_id in worlds:
        env = make_simulator(env_id, 1)
        states = _states(env)
        model = drawing(env.task).picture(env.batch.get_model(0))
        renderers: dict[str, Renderer] = {
            "the ray caster": RaycastRenderer(RenderScene(model, *size, None)),
            "the ray caster, every pixel anew": RaycastRenderer(RenderScene(model, *size, None), incremental=False),
        }
        missing: dict[str, str] = {}
        for backend, name in (("egl", "OpenGL through EGL"), ("osmesa", "OpenGL through OSMesa")):
            try:
                renderers[name] = make_renderer(model, *size, backend=backend)
            except GantryError as error:
                missing[name] = f"{error}".partition(";")[0]
        times = rounds([_film(renderer, model, states) for renderer in renderers.values()], repeats)
        world = f"{env_id.removeprefix('gantry/')}, {size[0]} × {size[1]} pixels"
        report(Row(f"{world}: the ray caster", median_rate(times, 0, PICTURES), "pictures/s"))
        for column, name in enumerate(renderers):
            if column:
                report(Row(f"{world}: {name}, time over the ray caster's", median_ratio(times, column, 0), "times"))
        for name, why in missing.items():
            report(Row(f"{world}: {name}, time over the ray caster's", None, "times", note=why))
        for renderer in renderers.values():
            renderer.close()
        env.close()


def _states(env: Simulator) -> list[np.ndarray]:
    """Return the states of an episode of random actions, as many as a block has pictures."""
    env.reset(seed=0)
    env.action_space.seed(0)
    states = []
    for _ in range(PICTURES):
        for _ in range(STEPS):
            env.step(env.action_space.sample())
        states.append(env.batch.state[0].copy())
    return states


def _film(renderer: Renderer, model: mujoco.MjModel, states: Sequence[np.ndarray]) -> Callable[[], None]:
    """Return a block that draws all states."""
    data = mujoco.MjData(model)

    def block() -> None:
        for state in states:
            mujoco.mj_setState(model, data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
            renderer.render(data)

    return block
