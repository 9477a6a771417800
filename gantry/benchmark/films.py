"""A film for each environment of a benchmark: our agents' first trainings side by side."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

from gantry.benchmark.cell import read_result
from gantry.benchmark.contenders import contender
from gantry.benchmark.plan import CELLS, Cell
from gantry.benchmark.report import FILMS
from gantry.errors import GantryError
from gantry.runs.environments import short_name

SIZE = (320, 240)


def film_cells(folder: Path, cells: Sequence[Cell], say: Callable[[str], None]) -> None:
    """Film the environments of a benchmark that have no film yet, for the report.

    Other libraries' policies are not kept: their files hold pickles.

    Args:
        folder: the benchmark's.
        cells: its cells.
        say: told in one line why an environment cannot be filmed.
    """
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        say("no films: they need imageio-ffmpeg (pip install imageio-ffmpeg); --report-only --films adds them later")
        return
    from gantry.agents import load_agent
    from gantry.film.record import record
    from gantry.film.side_by_side import Take, record_side_by_side

    ours = [cell for cell in cells if contender(cell.algorithm).library == "gantry"]
    for env_id in dict.fromkeys(cell.env_id for cell in ours):
        path = folder / FILMS / f"{short_name(env_id)}.mp4"
        first: dict[str, Take] = {}
        for cell in ours:
            run = folder / CELLS / cell.name
            result = read_result(run) if cell.env_id == env_id and cell.algorithm not in first else None
            if result is not None and (run / "policy.json").exists():  # folders may come back without all policies
                first[cell.algorithm] = Take(cell.algorithm, load_agent(run), env_id, result["env_options"])
        takes = [*first.values()]
        if not takes or path.exists():
            continue
        try:
            if len(takes) == 1:
                (take,) = takes
                record(take.policy, env_id, path, take.label, env_options=take.env_options, size=SIZE)
            else:
                record_side_by_side(takes, path, size=SIZE)
        except GantryError as error:
            say(str(error))
