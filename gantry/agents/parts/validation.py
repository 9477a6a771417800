"""Checks of settings and of computed numbers; each failure is one line that says what to change."""

import itertools
import math
import os

import torch

from gantry.errors import GantryError

TOO_LARGE = 1e18
"""Settings are below this: beyond, single precision and 64-bit integers overflow."""


def require(holds: bool, name: str, demand: str, value: object) -> None:
    """Refuse a setting's value unless `holds`: a GantryError with its name, the `demand` not met, and the `value`."""
    if not holds:
        raise GantryError(f"the setting {name} must be {demand}; it is {value}")


def require_at_least(config: object, least: float, *names: str) -> None:
    """Refuse settings below `least`, NaN or too large to count with; raises GantryError."""
    for name in names:
        value = getattr(config, name)
        require(value >= least, name, f"at least {least}", value)
        require(value < TOO_LARGE, name, f"below {TOO_LARGE:g}", value)


def require_positive(config: object, *names: str) -> None:
    """Refuse settings that are 0 or below, NaN or too large to count with; None passes. Raises GantryError."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value > 0, name, "above 0", value)
        require(value is None or value < TOO_LARGE, name, f"below {TOO_LARGE:g}", value)


def require_memory(numbers: int, name: str) -> None:
    """Refuse a setting that asks for more numbers, of 4 bytes, than the machine's memory holds; raises GantryError."""
    memory, wanted = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 4 * numbers
    if wanted > memory:
        gigabytes = f"{wanted / 2**30:,.0f} GiB" if wanted < 2**70 else "more"
        raise GantryError(
            f"the setting {name} must be lower: it would take {gigabytes} of memory, and there are "
            f"{memory / 2**30:,.0f} GiB"
        )


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
