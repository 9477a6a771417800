"""A film for each environment of a benchmark: every algorithm's first training, side by side.

The cell of the first seed films its own part when it has trained, as other libraries' policies are not kept.
"""

from collections.abc import Sequence
from pathlib import Path

from gantry.agents.protocol import Controller
from gantry.benchmark.plan import CELLS, FIRST_SEED, Cell
from gantry.errors import GantryError, described
from gantry.film.record import record
from gantry.film.side_by_side import join_side_by_side
from gantry.runs.environments import open_env, short_name
from gantry.types import Options

FILMS = "films"
"""The films' folder, in a benchmark's."""
PART = "film.mp4"
"""The part of a film that a cell's folder holds."""
SIZE = (320, 240)
SECONDS = 10.0
"""Playing time of an episode, at most: longer ones play faster."""
MAX_STEPS = 1_000
"""Steps that are shown of an episode without a time limit."""


def film_part(policy: Controller, cell: Cell, env_options: Options, folder: Path) -> str:
    """Film an evaluation episode of a cell's policy, where its seed is the first one.

    Returns:
        Why there is no film; nothing where there is one, or is to be none.
    """
    if cell.seed != FIRST_SEED:
        return ""
    try:
        speed, steps = _pace(cell.env_id, env_options)
        record(
            policy,
            cell.env_id,
            folder / PART,
            cell.algorithm,
            env_options=env_options,
            size=SIZE,
            speed=speed,
            max_steps=steps,
        )
    except Exception as error:  # whatever a foreign environment or policy raises
        return str(error) if isinstance(error, GantryError) else described(error)
    return ""


def _pace(env_id: str, env_options: Options) -> tuple[float, int]:
    """Return how much faster than real time an environment's episodes play, and how many steps they have at most."""
    env = open_env(env_id, None, env_options)
    limit = env.spec.max_episode_steps if env.spec is not None else None
    steps, rate = limit or MAX_STEPS, float((env.metadata or {}).get("render_fps") or 30.0)
    env.close()
    return min(1_000.0, max(1.0, steps / rate / SECONDS)), steps


def join_parts(folder: Path, cells: Sequence[Cell]) -> None:
    """Put the parts that cells have filmed side by side, in a film for each environment.

    Raises:
        GantryError: a part is damaged, or a film cannot be written.
    """
    parts: dict[str, list[Path]] = {}
    for cell in cells:
        part = folder / CELLS / cell.name / PART
        if part.exists():
            parts.setdefault(cell.env_id, []).append(part)
    for env_id, of_environment in parts.items():
        path = folder / FILMS / f"{short_name(env_id)}.mp4"
        if not path.exists() or path.stat().st_mtime < max(part.stat().st_mtime for part in of_environment):
            join_side_by_side(of_environment, path, SIZE)
