"""Settings: what a value may be is said in its type, and checked in one place.

A field `learning_rate: Positive = 1e-3` refuses 0; `clip_value: Positive | None = None` does, too, and takes None. Each
refusal is one line that says which setting and what it must be.
"""

import dataclasses
import functools
import typing
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch

from gantry.errors import GantryError

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


AT_LEAST_0 = Allowed("at least 0", lambda value: value >= 0)
Count = Annotated[int, Allowed("at least 1", lambda value: value >= 1)]
Whole = Annotated[int, AT_LEAST_0]
Positive = Annotated[float, Allowed(f"above 0 and below {TOO_LARGE:g}", lambda value: 0 < value < TOO_LARGE)]
NotNegative = Annotated[float, AT_LEAST_0]
Share = Annotated[float, Allowed("from 0 to 1", lambda value: 0 <= value <= 1)]
ShareBelow1 = Annotated[float, Allowed("from 0 to below 1", lambda value: 0 <= value < 1)]
Fraction = Annotated[float, Allowed("above 0 and at most 1", lambda value: 0 < value <= 1)]
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
    for name, allowed in _allowed(type(config)).items():
        value = getattr(config, name)
        if isinstance(value, int | float):
            require(abs(value) < TOO_LARGE, name, f"below {TOO_LARGE:g}", "larger")
        for each in allowed:
            require(value is None or each.holds(value), name, each.demand, value)


@functools.cache
def _allowed(kind: type) -> dict[str, Sequence[Allowed]]:
    """Return what the fields of a dataclass must be, by name."""
    found: dict[str, Sequence[Allowed]] = {}
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in (field.name for field in dataclasses.fields(kind)):
        parts = typing.get_args(hints[name])
        notes = [note for each in (hints[name], *parts) for note in getattr(each, "__metadata__", ())]
        if typing.get_origin(hints[name]) is Literal:
            *others, last = map(str, parts)
            notes.append(Allowed(f"{', '.join(others)} or {last}", parts.__contains__))
        found[name] = [*notes, WHEREVER[name]] if name in WHEREVER else notes
    return found


def plain(value: Any) -> Any:
    """Return a setting or settings with Python's numbers in place of NumPy's, which no JSON file takes."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{name: plain(part) for name, part in vars(value).items()})
    return value
