"""Checks of settings and of computed numbers; each failure is one line that says what to change."""

import dataclasses
import itertools
import math
from typing import TYPE_CHECKING

import torch

from gantry.errors import GantryError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TOO_LARGE = 1e18
"""Settings are below this: beyond, single precision and 64-bit integers overflow."""
ALWAYS_AT_HAND = 2**26
"""Bytes that are given without asking the system what it has."""
LIMITS = {"num_envs": 10**6, "torch_threads": 1024}
"""Settings that are below less."""


def require(holds: bool, name: str, demand: str, value: object) -> None:
    """Refuse a setting's value unless `holds`: a GantryError with its name, the `demand` not met, and the `value`."""
    if not holds:
        raise GantryError(f"the setting {name} must be {demand}; it is {value}")


def require_at_least(config: "DataclassInstance", least: float, *names: str) -> None:
    """Refuse settings below `least`, and any setting that is too large to compute with; raises GantryError."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, int | float):
            limit = LIMITS.get(field.name, TOO_LARGE)
            require(abs(value) < limit, field.name, f"below {limit:g}", value if abs(value) < TOO_LARGE else "larger")
    for name in names:
        require(getattr(config, name) >= least, name, f"at least {least}", getattr(config, name))


def require_positive(config: object, *names: str) -> None:
    """Refuse settings that are 0 or below, NaN or too large to count with; None passes. Raises GantryError."""
    for name in names:
        value = getattr(config, name)
        require(value is None or 0 < value < TOO_LARGE, name, f"above 0 and below {TOO_LARGE:g}", value)


def require_memory(numbers: int, name: str, what: str = "it") -> None:
    """Refuse a setting by which `what` asks for more numbers, of 4 bytes, than memory can take (GantryError)."""
    if 4 * numbers > ALWAYS_AT_HAND:
        from gantry.agents.parts.memory import refuse_beyond_memory

        refuse_beyond_memory(4 * numbers, name, what)


def require_between(config: object, low: float, high: float, *names: str) -> None:
    """Refuse settings outside [low, high]; raises GantryError."""
    for name in names:
        require(low <= getattr(config, name) <= high, name, f"from {low} to {high}", getattr(config, name))


def require_network(hidden_sizes: tuple[int, ...], device: str, networks: int = 1) -> None:
    """Refuse layers' widths outside 1 to 65536 or beyond memory, and a GPU where there is none; raises GantryError."""
    require(all(1 <= width <= 65536 for width in hidden_sizes), "hidden_sizes", "widths of 1 to 65536", hidden_sizes)
    weights = sum(hidden_sizes) + sum(math.prod(pair) for pair in itertools.pairwise(hidden_sizes))
    require_memory(networks * weights, "hidden_sizes" if networks == 1 else "ensemble_size or hidden_sizes")
    require(device != "cuda" or torch.cuda.is_available(), "device", "cpu where there is no GPU", device)


def require_finite(*values: float) -> None:
    """Stop learning by a GantryError when a loss or a gradient norm is NaN or infinite."""
    if not all(map(math.isfinite, values)):
        raise GantryError(
            "learning stopped: the loss or its gradient is NaN or infinite; lower learning_rate, or look for huge "
            "values in observations, rewards and action bounds"
        )
