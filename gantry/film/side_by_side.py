"""Films of several policies beside one another, each with its own panel of time, score and actions."""

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gantry.agents.protocol import Controller
from gantry.errors import GantryError
from gantry.film.record import FRAMES_PER_SECOND, SIZE, Film, record
from gantry.film.video import VideoWriter, film_frames
from gantry.types import Options

COLUMNS = 3
"""Films in a row, at most."""


@dataclasses.dataclass(frozen=True)
class Take:
    """What one part of the film shows."""

    label: str
    """First line of its panel."""
    policy: Controller
    env_id: str
    env_options: Options


def record_side_by_side(
    takes: Sequence[Take],
    path: Path,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
    speed: float = 1.0,
    max_steps: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Film]:
    """Film an episode of each policy, the same one where they share an environment, and show all at once.

    A part that has ended keeps its last picture.

    Args:
        takes: the parts, from the left, row by row.
        path: the video file; its suffix chooses the format.
        seed: block of evaluation seeds.
        size: width and height of each part in pixels; None: 480 × 360.
        backend: auto, egl, osmesa or raycast.
        speed: playing speed as a multiple of real time.
        max_steps: steps after which an episode is cut; None: as `evaluate` does.
        progress: called with the number of parts that have been filmed, and of all.

    Returns:
        What each part shows.

    Raises:
        GantryError: fewer than two parts, and whatever `record` raises.
    """
    if len(takes) < 2:
        raise GantryError("a comparison needs at least two runs: gantry record RUN --compare RUN …")
    width, height = size or SIZE
    width, height = width - width % 2, height - height % 2  # an encoder would pad odd sides
    with tempfile.TemporaryDirectory(prefix="gantry-film-") as folder:
        films = []
        for number, take in enumerate(takes):
            part = Path(folder) / f"{number}.mp4"
            films.append(
                record(
                    take.policy,
                    take.env_id,
                    part,
                    title=take.label,
                    seed=seed,
                    env_options=take.env_options,
                    size=(width, height),
                    backend=backend,
                    speed=speed,
                    max_steps=max_steps,
                )
            )
            if progress is not None:
                progress(number + 1, len(takes))
        columns = min(COLUMNS, len(takes))
        rows = -(-len(takes) // columns)
        with contextlib.ExitStack() as stack:
            readers = [stack.enter_context(contextlib.closing(film_frames(film.path))) for film in films]
            writer = stack.enter_context(VideoWriter(path, FRAMES_PER_SECOND, (columns * width, rows * height)))
            sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
            for pictures in itertools.zip_longest(*readers):
                for number, picture in enumerate(pictures):
                    if picture is not None:
                        top, left = number // columns * height, number % columns * width
                        sheet[top : top + height, left : left + width] = picture
                writer.add(sheet)
    return films
