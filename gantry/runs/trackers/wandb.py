"""Weights & Biases; `WANDB_MODE=offline` keeps everything in the run's folder, until `wandb sync`."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from gantry.files import write_text
from gantry.runs.trackers.protocol import TrackedRun


class WandB:
    """Logs to the project `gantry`, or to that of WANDB_PROJECT; a resumed run goes on where it was."""

    def start(self, run: TrackedRun) -> None:
        """Begin a run, or go on with the one that is named in the run's folder."""
        import wandb

        self._film = wandb.Video
        kept = run.folder / "wandb-id.txt"
        known = kept.read_text().strip() if kept.is_file() else uuid.uuid4().hex[:8]
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "gantry"),
            name=run.name,
            id=known,
            resume="allow",
            dir=str(run.folder),
            config=run.config,
            settings=wandb.Settings(silent=True, console="off", disable_code=True, save_code=False, disable_git=True),
        )
        write_text(kept, known + "\n")
        self._run.define_metric("*", step_metric="steps")  # its own count only grows

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self._run.log({"steps": step, **metrics})

    def video(self, step: int, path: Path) -> None:
        """Show a film."""
        self._run.log({"steps": step, "policy": self._film(str(path), format="mp4")})

    def finish(self) -> None:
        """Send what is left, and end."""
        self._run.finish()
