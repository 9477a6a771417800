"""A training that goes on elsewhere, followed: its policy as it is saved, and its learning curve."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from gantry.agents.protocol import Controller
from gantry.errors import GantryError
from gantry.runs.folder import Run
from gantry.view.messages import pack
from gantry.view.session import Session, Submit, at_once

LOOK_SECONDS = 0.5
"""Time between two looks at the run's folder."""
POINTS = 400
"""Points of the learning curve that are sent, at most."""
METRICS = ("score", "return_mean")
"""What the curve shows: the first of these that the run's metrics have."""


class TrainingWatch:
    """Looks at a run's folder now and then.

    Args:
        folder: the run's.
        load: loads its policy.
        clock: seconds that pass.
        submit: has it loaded, see `Session`.
    """

    def __init__(
        self,
        folder: Path,
        load: Callable[[], Controller | None],
        clock: Callable[[], float] = time.monotonic,
        submit: Submit = at_once,
    ) -> None:
        self._run, self._load, self._now, self._submit = Run(folder), load, clock, submit
        self._loading: Future[Controller | None] | None = None
        self._next = float("-inf")
        self._policy_seen = modified(folder / "policy.safetensors")
        self._metrics_seen: tuple[int, int] | None = None

    def __call__(self, session: Session) -> list[tuple[str, bytes]]:
        """Give the session the latest policy, and return the message of the learning curve if it has grown."""
        if self._now() < self._next:
            return []
        self._next = self._now() + LOOK_SECONDS
        self._look_for_policy(session)
        metrics = modified(self._run.metrics.path)
        if metrics is None or metrics == self._metrics_seen:
            return []
        self._metrics_seen = metrics
        return [("curve", curve_message(self._run.read_metrics()))]

    def _look_for_policy(self, session: Session) -> None:
        """Begin to load a policy that is new, or give the session one that has been loaded."""
        seen = modified(self._run.folder / "policy.safetensors")
        if self._loading is None and seen is not None and seen != self._policy_seen:
            self._policy_seen, self._loading = seen, self._submit(self._load)
        if self._loading is None or not self._loading.done():
            return
        loading, self._loading = self._loading, None
        try:
            policy = loading.result()
        except GantryError:  # between two files of one saving; the next look finds both
            policy = None
        if policy is None:
            self._policy_seen = None
        else:
            session.use_policy(policy)


def modified(path: Path) -> tuple[int, int] | None:
    """Return what tells a file's states apart, or None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def curve_message(rows: list[dict[str, float]]) -> bytes:
    """Return the message of a learning curve: what it shows, environment steps, values."""
    metric = next((name for name in METRICS if rows and name in rows[-1]), "")
    finite = [row for row in rows if np.isfinite(row.get(metric, np.nan))]
    kept = finite[:: -(-len(finite) // POINTS) or 1]
    if finite and kept[-1] is not finite[-1]:
        kept.append(finite[-1])
    points = np.array([[row["steps"], row[metric]] for row in kept], np.float64).reshape(-1, 2)
    return pack("curve", {"metric": metric}, {"x": points[:, 0], "y": points[:, 1]})
