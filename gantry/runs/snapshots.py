"""Snapshots of a policy during training, for a film of its progress: all that acting needs, at shares of the budget."""

import contextlib
import dataclasses
from pathlib import Path

from gantry.agents.protocol import Agent
from gantry.errors import GantryError
from gantry.runs.folder import Run

SHARES = (0.0, 0.05, 0.1, 0.25, 0.5)
"""Shares of the training after which a policy is kept; the last policy, in the run's own folder, follows them."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A policy as it was during training."""

    steps: int
    """Environment steps that it had learned from."""
    folder: Path
    """Where it can be loaded from."""


def snapshots(run: Run) -> list[Snapshot]:
    """Return the policies that a training kept, by their steps; one that a kill left unfinished is not there."""
    folders = (path.parent for path in run.snapshots.glob("*/policy.json"))  # which is written last
    found = [Snapshot(int(folder.name), folder) for folder in folders if folder.name.isdecimal()]
    return sorted(found, key=lambda snapshot: snapshot.steps)


def progress(run: Run) -> list[Snapshot]:
    """Return the snapshots of a run, then its last policy.

    Raises:
        GantryError: training kept none, or has not saved a policy yet.
    """
    from gantry.agents import load_agent  # imports PyTorch

    if not snapshots(run):
        raise GantryError(f"{run.folder} has no snapshots of its training: train with --keep-snapshots")
    last = load_agent(run.folder).steps
    return [*(each for each in snapshots(run) if each.steps < last), Snapshot(last, run.folder)]


class SnapshotKeeper:
    """Keeps the policy of an agent that learns, each time that a share of its budget has passed.

    Args:
        run: gets a folder for each, `snapshots/STEPS`.
        agent: the one that learns.
        total_steps: its budget.
    """

    def __init__(self, run: Run, agent: Agent, total_steps: int) -> None:
        self._run, self._agent, self._total_steps = run, agent, total_steps
        for snapshot in snapshots(run):
            if snapshot.steps > agent.steps:  # a kill left it beyond the checkpoint
                _remove(snapshot.folder)
        kept = snapshots(run)
        self._kept = self._passed(kept[-1].steps) if kept else 0

    def _passed(self, steps: int) -> int:
        """Return how many of the shares have passed after so many steps."""
        return sum(steps >= share * self._total_steps for share in SHARES)

    def keep(self) -> None:
        """Keep the policy as it is now, if it is time.

        Raises:
            CannotWrite: no space, no permission; the next call tries again.
        """
        passed = self._passed(self._agent.steps)
        if passed > self._kept:
            from gantry.agents import save_agent  # imports PyTorch

            save_agent(self._agent, self._run.snapshots / str(self._agent.steps))
            self._kept = passed


def _remove(folder: Path) -> None:
    """Remove a snapshot; what makes it one goes first."""
    with contextlib.suppress(OSError):
        for name in ("policy.json", "policy.safetensors"):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
