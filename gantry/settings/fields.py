"""Settings: what a value may be is said in its type, and checked in one place.

A field `learning_rate: Positive = 1e-3` refuses 0; `clip_value: Positive | None = None` does, too, and takes None. Each
refusal is one line that says which setting and what it must be. `gamma: Annotated[Share, between(0.9, 0.999)] = 0.99`
says besides what `gantry tune` tries.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np
import torch

from gantry.errors import GantryError, shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TOO_LARGE = 1e18
"""Settings are below this: beyond, single precision and 64-bit integers overflow."""


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What a setting's value must be, as a note in its type."""

    demand: str
    """In words."""
    holds: Callable[..., bool]


@dataclasses.dataclass(frozen=True, eq=False)  # types must be hashable, with their notes
class Tried:
    """What `gantry tune` tries for a setting, as a note in its type."""

    values: tuple[float, float, bool] | list[object]
    """The lowest, the highest, and whether it is their logarithm that matters; or its choices."""


def between(low: float, high: float, log: bool = False) -> Tried:
    """Return the note that numbers from `low` to `high` are tried, with `log` evenly by ratio."""
    return Tried((low, high, log))


def among(*choices: object) -> Tried:
    """Return the note that these values are tried."""
    return Tried(list(choices))


AT_LEAST_0 = Allowed("at least 0", lambda value: value >= 0)
Count = Annotated[int, Allowed("at least 1", lambda value: value >= 1)]
Whole = Annotated[int, AT_LEAST_0]
Positive = Annotated[float, Allowed(f"above 0 and below {TOO_LARGE:g}", lambda value: 0 < value < TOO_LARGE)]
NotNegative = Annotated[float, AT_LEAST_0]
Share = Annotated[float, Allowed("from 0 to 1", lambda value: 0 <= value <= 1)]
ShareBelow1 = Annotated[float, Allowed("from 0 to below 1", lambda value: 0 <= value < 1)]
Fraction = Annotated[float, Allowed("above 0 and at most 1", lambda value: 0 < value <= 1)]
Decay = Literal["constant", "linear"]
"""Schedules of learning rates: they stay, or fall linearly to 0 at the last step of learning."""
WHEREVER: dict[str, Allowed] = {
    "num_envs": Allowed("below 1e+06", lambda number: number < 10**6),
    "torch_threads": Allowed("below 1024", lambda number: number < 1024),
    "hidden_sizes": Allowed("widths of 1 to 65536", lambda widths: all(1 <= width <= 65536 for width in widths)),
    "device": Allowed("cpu where there is no GPU", lambda device: device != "cuda" or torch.cuda.is_available()),
}
"""What settings of these names must be besides."""


def require(holds: bool, name: str, demand: str, value: object) -> None:
    """Refuse a setting's value unless `holds`: a GantryError with its name, the `demand` not met, and the `value`."""
    if not holds:
        raise GantryError(f"the setting {name} must be {demand}; it is {value}")


def validate(config: "DataclassInstance") -> None:
    """Refuse settings that are not what their types say, or too large to compute with; raises GantryError."""
    for name, (kind, allowed) in _allowed(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, int | float):
            require(abs(value) < TOO_LARGE, name, f"below {TOO_LARGE:g}", "larger")
        if kind is not None and not dataclasses.is_dataclass(value):  # such a one has been looked at
            try:
                msgspec.convert(msgspec.to_builtins(value, enc_hook=np.generic.item), kind)
            except (msgspec.ValidationError, TypeError) as error:
                raise GantryError(f"the setting {name} is {shown(value)}: {error}") from error
        for each in allowed:
            require(value is None or each.holds(value), name, each.demand, value)


@functools.cache
def _allowed(kind: type) -> dict[str, tuple[object, Sequence[Allowed]]]:
    """Return the type of each field of a dataclass, by name, and what it must be besides; of choices these alone."""
    found: dict[str, tuple[object, Sequence[Allowed]]] = {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in (field.name for field in dataclasses.fields(kind)):
        bare, *notes = _noted(hints[name])
        parts = typing.get_args(bare)
        notes += [note for part in parts for note in _noted(part)[1:]]
        choices = typing.get_origin(bare) is Literal
        if choices:
            *others, last = map(str, parts)
            notes.append(Allowed(f"{', '.join(others)} or {last}", parts.__contains__))
        if name in WHEREVER:
            notes.append(WHEREVER[name])
        found[name] = None if choices else hints[name], [note for note in notes if isinstance(note, Allowed)]
    return found


def _noted(hint: object) -> Sequence[object]:
    """Return a type without its notes, and the notes."""
    return typing.get_args(hint) if typing.get_origin(hint) is Annotated else [hint]
