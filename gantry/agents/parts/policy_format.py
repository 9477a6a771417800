"""The layout of a policy's two files, read without PyTorch where NumPy's arrays do."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from gantry.errors import GantryError, shown
from gantry.files import read_json_and_checksum
from gantry.types import Json

FORMAT = 6
"""Version of the layout."""
Arrays = TypeVar("Arrays")


def read_policy(
    folder: Path, load: Callable[[Path], tuple[Arrays, dict[str, str]]]
) -> tuple[Json, Arrays, dict[str, str]]:
    """Return what `policy.json` says, and the arrays and metadata of `policy.safetensors`.

    Args:
        folder: of both.
        load: `load_tensors` or `load_arrays`.

    Raises:
        GantryError: a file is missing, damaged or of another format, or the two do not belong together.
    """
    path, numbers = folder / "policy.json", folder / "policy.safetensors"
    content, found_checksum = read_json_and_checksum(path)
    found = content.get("format")
    if found != FORMAT:
        raise GantryError(
            f"{shown(path)} was written by another version of Gantry (format {shown(found)}, not {FORMAT}); train again"
        )
    arrays, metadata = load(numbers)
    if metadata.get("description") != found_checksum:
        raise GantryError(
            f"{shown(numbers)} is damaged, or is not of the same save as {path.name} (whose checksum does not fit); "
            "restore it or train again"
        )
    return content, arrays, metadata
