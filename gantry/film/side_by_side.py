"""Films of several policies, beside one another or in turn, each with its own panel of time, score and actions."""

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from gantry.agents.protocol import Controller
from gantry.errors import GantryError
from gantry.film.record import FRAMES_PER_SECOND, SIZE, Film, record
from gantry.film.video import VideoWriter, film_frames
from gantry.types import Options

COLUMNS = 3
"""Films in a row, at most; four make a square."""
HOLD_FRAMES = 20
"""Frames for which the last picture of a part stays, so that its score can be read, where another part follows."""


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
    width, height = _even(size or SIZE)
    with _parts(takes, seed, (width, height), backend, speed, max_steps, progress) as films:
        join_side_by_side([film.path for film in films], path, (width, height))
    return films


def join_side_by_side(parts: Sequence[Path], path: Path, size: tuple[int, int]) -> None:
    """Write a film that shows several films at once; a part that has ended keeps its last picture.

    Args:
        parts: the films, from the left, row by row.
        path: the video file; its suffix chooses the format.
        size: width and height of each part in pixels.

    Raises:
        GantryError: a part cannot be read, or the film cannot be written.
    """
    width, height = size
    columns = 2 if len(parts) == 4 else min(COLUMNS, len(parts))
    rows = -(-len(parts) // columns)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(contextlib.closing(film_frames(part))) for part in parts]
        writer = stack.enter_context(VideoWriter(path, FRAMES_PER_SECOND, (columns * width, rows * height)))
        sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
        for pictures in itertools.zip_longest(*readers):
            for number, picture in enumerate(pictures):
                if picture is not None:
                    top, left = number // columns * height, number % columns * width
                    sheet[top : top + height, left : left + width] = picture
            writer.add(sheet)


def record_in_turn(
    takes: Sequence[Take],
    path: Path,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
    speed: float = 1.0,
    max_steps: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Film]:
    """Film an episode of each policy, the same one where they share an environment, and show one after another.

    Arguments are those of `record_side_by_side`; `size` is the film's.

    Returns:
        What each part shows.

    Raises:
        GantryError: whatever `record` raises.
    """
    film_size = _even(size or SIZE)
    with (
        _parts(takes, seed, film_size, backend, speed, max_steps, progress) as films,
        VideoWriter(path, FRAMES_PER_SECOND, film_size) as writer,
    ):
        for film in films:
            with contextlib.closing(film_frames(film.path)) as pictures:
                for picture in pictures:
                    writer.add(picture)
            for _ in range(HOLD_FRAMES):
                writer.add(picture)
    return films


def _even(size: tuple[int, int]) -> tuple[int, int]:
    """Return a size with even sides: an encoder would pad odd ones."""
    return size[0] - size[0] % 2, size[1] - size[1] % 2


@contextlib.contextmanager
def _parts(
    takes: Sequence[Take], seed: int, size: tuple[int, int], backend: str, speed: float, max_steps: int | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[list[Film]]:  # fmt: skip
    """Film an episode of each policy into a file of its own, which are there within the block."""
    with tempfile.TemporaryDirectory(prefix="gantry-film-") as folder:
        films = []
        for number, take in enumerate(takes):
            film = record(
                take.policy,
                take.env_id,
                Path(folder) / f"{number}.mp4",
                title=take.label,
                seed=seed,
                env_options=take.env_options,
                size=size,
                backend=backend,
                speed=speed,
                max_steps=max_steps,
            )
            films.append(film)
            if progress is not None:
                progress(number + 1, len(takes))
        yield films
