"""Checks of settings and of computed numbers; each failure is one line that says what to change."""

import math

import torch

from gantry.errors import GantryError


def require(holds: bool, name: str, demand: str, value: object) -> None:
    """Refuse a setting's value unless `holds`: a GantryError with its name, the `demand` not met, and the `value`."""
    if not holds:
        raise GantryError(f"the setting {name} must be {demand}; it is {value}")


def require_at_least(config: object, least: float, *names: str) -> None:
    """Refuse settings below `least`; raises GantryError."""
    for name in names:
        require(getattr(config, name) >= least, name, f"at least {least}", getattr(config, name))


def require_positive(config: object, *names: str) -> None:
    """Refuse settings that are 0 or below; None passes. Raises GantryError."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value > 0, name, "above 0", value)


def require_between(config: object, low: float, high: float, *names: str) -> None:
    """Refuse settings outside [low, high]; raises GantryError."""
    for name in names:
        require(low <= getattr(config, name) <= high, name, f"from {low} to {high}", getattr(config, name))


def require_network(hidden_sizes: tuple[int, ...], device: str) -> None:
    """Refuse widths of hidden layers outside 1 to 65536, and a GPU where there is none; raises GantryError."""
    require(all(1 <= width <= 65536 for width in hidden_sizes), "hidden_sizes", "widths of 1 to 65536", hidden_sizes)
    require(device != "cuda" or torch.cuda.is_available(), "device", "cpu where there is no GPU", device)


def require_finite(*values: float) -> None:
    """Stop learning by a GantryError when a loss or a gradient norm is NaN or infinite."""
    if not all(map(math.isfinite, values)):
        raise GantryError(
            "learning stopped: the loss or its gradient is NaN or infinite; the last good policy is kept; lower "
            "learning_rate, or look for NaN or huge values in observations and rewards"
        )
