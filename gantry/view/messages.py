"""What passes between the viewer and its page: commands as JSON, answers as a JSON header followed by numbers.

A command names an act of the list below and holds numbers, a choice or a short name: never a path, a file or code.
Whatever does not fit is refused whole.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
import numpy as np

from gantry.errors import GantryError

LONGEST_COMMAND = 4096
"""Bytes of a command, at most."""
MOST_ACTIONS = 128
"""Numbers of an action that is set by hand, at most."""
SLOWEST, FASTEST = 0.01, 16.0
"""Range of the speed, as a multiple of real time."""
FARTHEST = 1e6
"""Largest coordinate of a line of sight (m)."""

Signed = Annotated[float, msgspec.Meta(ge=-1.0, le=1.0)]
Point = Annotated[
    list[Annotated[float, msgspec.Meta(ge=-FARTHEST, le=FARTHEST)]], msgspec.Meta(min_length=3, max_length=3)
]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
By = Literal["policy", "hand", "random"]
"""What chooses the actions."""


class _Command(msgspec.Struct, frozen=True, tag_field="do", forbid_unknown_fields=True):
    """A message of the page."""


class Hello(_Command, tag="hello", frozen=True):
    """Say that the first picture is drawn, and who one is, so that a page that is loaded again is known."""

    key: Annotated[str, msgspec.Meta(min_length=8, max_length=64)]


class Play(_Command, tag="play", frozen=True):
    """Let time pass, or pause it."""

    on: bool


class Step(_Command, tag="step", frozen=True):
    """Pause, after one control step more."""


class Reset(_Command, tag="reset", frozen=True):
    """Begin the same episode again, or the next one."""

    next: bool = False


class Speed(_Command, tag="speed", frozen=True):
    """Set the speed, as a multiple of real time."""

    value: Annotated[float, msgspec.Meta(ge=SLOWEST, le=FASTEST)]


class Switch(_Command, tag="switch", frozen=True):
    """Show another of the runs that were named on the command line."""

    index: Annotated[int, msgspec.Meta(ge=0, le=1000)]


class Control(_Command, tag="control", frozen=True):
    """Choose what chooses the actions."""

    by: By


class Act(_Command, tag="act", frozen=True):
    """Set the action by hand."""

    values: Annotated[list[float], msgspec.Meta(min_length=1, max_length=MOST_ACTIONS)]


class Push(_Command, tag="push", frozen=True):
    """Push the robot along a direction of the floor, its length the strength."""

    x: Signed
    y: Signed
    strength: Annotated[float, msgspec.Meta(gt=0.0, le=10.0)] = 1.0


class Throw(_Command, tag="throw", frozen=True):
    """Throw a ball at the robot, which flies along a direction of the floor."""

    x: Signed
    y: Signed


class Grab(_Command, tag="grab", frozen=True):
    """Take hold of what a line of sight meets first, or while something is held, pull it to that line."""

    origin: Point
    direction: Point


class Release(_Command, tag="release", frozen=True):
    """Let go of what is held."""


class SetPhysics(_Command, tag="physics", frozen=True):
    """Change a physical quantity while the simulation goes on."""

    name: Name
    value: float


Command = Hello | Play | Step | Reset | Speed | Switch | Control | Act | Push | Throw | Grab | Release | SetPhysics

_decoder = msgspec.json.Decoder(Command)


def parse(raw: bytes) -> Command:
    """Return the command that a message holds.

    Raises:
        GantryError: it holds none.
    """
    if len(raw) > LONGEST_COMMAND:
        raise GantryError(f"a command takes at most {LONGEST_COMMAND} bytes")
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise GantryError(f"not a command: {error}") from None


TYPES: dict[str, np.dtype[np.generic]] = {"f": np.dtype("<f4"), "u": np.dtype("<u4"), "b": np.dtype("u1")}
"""Letter → type of the numbers that messages to the page hold."""


def pack(kind: str, content: Mapping[str, object], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """Return a message to the page: the header's length (4 bytes), the header (JSON), and arrays at multiples of 4.

    Args:
        kind: what the message is.
        content: values by name, as JSON; NaN and infinity become null.
        arrays: by name; the header lists type and length of each, in order.
    """
    parts: list[bytes] = []
    listed: dict[str, list[object]] = {}
    for name, array in (arrays or {}).items():
        letter = {"f": "f", "i": "u", "u": "b" if array.dtype.itemsize == 1 else "u"}[array.dtype.kind]
        data = array.astype(TYPES[letter], copy=False).tobytes()
        listed[name] = [letter, array.size]
        parts.append(data + bytes(-len(data) % 4))
    header = json.dumps(_plain({"kind": kind, **content, "arrays": listed}), allow_nan=False).encode()
    header += b" " * (-len(header) % 4)
    return b"".join((len(header).to_bytes(4, "little"), header, *parts))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
