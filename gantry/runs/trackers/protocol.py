"""What a tracker is."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from gantry.types import Json


@dataclasses.dataclass(frozen=True)
class TrackedRun:
    """What a tracker learns of a run when it begins."""

    folder: Path
    """The run's folder; a tracker may keep files of its own in it."""
    name: str
    """The folder's name, such as `CartPoleSwingUp-v0-ppo-seed0`."""
    config: Json
    """All that `config.json` holds: environment, options, agent, seed, budget, every setting, versions."""
    step: int
    """The first step that will be logged; what a killed run logged from there on is void."""


@runtime_checkable
class Tracker(Protocol):
    """Shows a run. The methods are called one after another, all in one thread that is not the training's.

    What a method raises ends the tracking, with one line of warning; training goes on without it.
    """

    def start(self, run: TrackedRun) -> None:
        """Begin, once training has made its first update, or again where a run is resumed."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show numbers of an update at an environment step; those of evaluations are called evaluation/NAME."""

    def video(self, step: int, path: Path) -> None:
        """Show a film (.mp4) of the policy at a step."""

    def finish(self) -> None:
        """End: training is done, was stopped, or has failed."""
