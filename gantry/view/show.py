"""What a session is asked to show."""

from collections.abc import Callable
from dataclasses import dataclass

from gantry.agents.protocol import Controller
from gantry.types import Options


@dataclass(frozen=True)
class Show:
    """One thing to show: a run, or an environment without a policy."""

    label: str
    env_id: str
    options: Options
    load: Callable[[], Controller | None] | None
    """Loads the policy, and returns None where training has saved none yet; None for an environment alone."""
