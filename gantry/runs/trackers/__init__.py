"""Trackers: where the curves, the settings and the films of a run are shown beside its folder.

A tracker is any class with the methods of the protocol `Tracker`; `Tracking` feeds one during training.
"""

import importlib
import importlib.util
import os
import sys

from gantry.errors import GantryError, described, nearest, shown
from gantry.runs.trackers.protocol import Tracker

TRACKERS = {
    "tensorboard": ("gantry.runs.trackers.tensorboard:TensorBoard", "tensorboard"),
    "wandb": ("gantry.runs.trackers.wandb:WandB", "wandb"),
    "mlflow": ("gantry.runs.trackers.mlflow:MLflow", "mlflow"),
    "trackio": ("gantry.runs.trackers.trackio:Trackio", "trackio"),
}
"""Name → "module:Class", and the package that it needs, which is also the name of the extra that brings it."""


def make_tracker(name: str) -> Tracker:
    """Return the tracker of a name, or of a class of the user's own, written module:Class; nothing starts yet.

    Raises:
        GantryError: no such tracker, its package is not installed, or the class cannot be made.
    """
    if name.lower() in TRACKERS:
        where, package = TRACKERS[name.lower()]
        if importlib.util.find_spec(package) is None:
            raise GantryError(f"--track {package} needs the package {package}: pip install 'gantry-rl[{package}]'")
    elif ":" in name:
        where = name
        if not {"", os.getcwd()} & set(sys.path):
            sys.path.append(os.getcwd())
    else:
        raise GantryError(f"there is no tracker {shown(name)!r}{nearest(name, TRACKERS)}, and module:Class is yours")
    module, _, attribute = where.partition(":")
    try:
        tracker = getattr(importlib.import_module(module), attribute)()
    except Exception as error:  # whatever a module of the user's own raises
        raise GantryError(f"the tracker {shown(name)} cannot be made: {shown(described(error))}") from error
    if not isinstance(tracker, Tracker):
        raise GantryError(f"the tracker {shown(name)} needs the methods start, log, video and finish")
    return tracker
