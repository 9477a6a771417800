"""A poster of a film: pictures of it, evenly spaced in time, on one sheet."""

from pathlib import Path

import numpy as np
from PIL import Image

from gantry.errors import GantryError
from gantry.files import replacing
from gantry.film.video import film_frames

COLUMNS, ROWS = 4, 3
WIDTH = 1600
"""Width of a poster in pixels, at most."""
GAP = 4
"""Space between pictures, pixels."""


def write_poster(film: Path, path: Path, frames: int) -> None:
    """Write the poster of a film as PNG, whole or not at all: twelve pictures, the first and the last among them.

    Args:
        film: the video file.
        path: the poster, ending in .png.
        frames: number of the film's frames.

    Raises:
        GantryError: another suffix, the film holds no picture, or the poster cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise GantryError(f"cannot write {path}: a poster's name ends in .png")
    chosen = np.unique(np.linspace(0, frames - 1, COLUMNS * ROWS).round().astype(int)).tolist()
    pictures = []
    for number, frame in enumerate(film_frames(film)):
        if number in chosen:
            picture = Image.fromarray(frame)
            picture.thumbnail((WIDTH // COLUMNS, WIDTH))
            pictures.append(picture)
    if not pictures:
        raise GantryError(f"cannot write {path}: {film} holds no picture")
    width, height = pictures[0].size
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * (width + GAP), number // columns * (height + GAP)))
    with replacing(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
