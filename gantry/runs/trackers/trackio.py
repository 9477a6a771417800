"""Trackio: a local dashboard, `trackio show`; TRACKIO_DIR says where it keeps its files."""

from collections.abc import Mapping
from pathlib import Path

from gantry.runs.trackers.protocol import TrackedRun


class Trackio:
    """Logs to the project `gantry`; a resumed run goes on where it was."""

    def start(self, run: TrackedRun) -> None:
        """Begin a run, or go on with the one of this name."""
        import trackio

        self._film = trackio.Video
        self._run = trackio.init("gantry", name=run.name, config=run.config, resume="allow", embed=False)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log(dict(metrics), step=step)

    def video(self, step: int, path: Path) -> None:
        """Show a film."""
        self._run.log({"policy": self._film(str(path))}, step=step)

    def finish(self) -> None:
        """Write what is left, and end."""
        self._run.finish()
