"""Schedules of settings, such as exploration noise or a learning rate, over the course of learning: pure functions.

Settings name a schedule by four fields: `x_start`, `x_end`, `x_fraction` (the share of learning in which it gets from
start to end) and `x_schedule` (its form).
"""

from typing import Literal

from gantry.errors import GantryError
from gantry.settings.fields import Decay

Schedule = Literal["constant", "linear", "exponential"]


def scheduled(form: Schedule, start: float, end: float, fraction: float, progress: float) -> float:
    """Return the value of a setting when a share `progress` of learning has passed.

    Linear: start + (end - start) p. Exponential: start (end / start)^p, the same factor in every step. In both,
    p = min(1, progress / fraction), so that the value stays at `end` once it has reached it.

    Args:
        form: `constant` stays at `start`.
        start: initial value.
        end: value when the share `fraction` has passed, and from then on.
        fraction: (0, 1].
        progress: environment steps so far divided by the total; beyond 1 the value stays.
    """
    if form == "constant":
        return start
    passed = min(1.0, max(0.0, progress / fraction))
    if passed == 1.0:
        return end  # exactly, whatever the rounding
    if form == "linear":
        return start + (end - start) * passed
    return float(start * (end / start) ** passed)


def decayed(form: Decay, rate: float, progress: float) -> float:
    """Return a learning rate that stays, or that falls linearly to 0 at the last step of learning."""
    return scheduled(form, rate, 0.0, 1.0, progress)


def check_schedule(name: str, form: Schedule, start: float, end: float) -> None:
    """Refuse a schedule that cannot work.

    Args:
        name: of the setting, for the message.
        form: see `scheduled`.
        start: see `scheduled`.
        end: see `scheduled`.

    Raises:
        GantryError: an exponential schedule starts or ends at 0 or below.
    """
    if form == "exponential" and not (start > 0.0 and end > 0.0):
        raise GantryError(
            f"an exponential schedule never reaches 0: {name}_start and {name}_end must be above 0, not {start} and "
            f"{end}; or set {name}_schedule to linear"
        )
