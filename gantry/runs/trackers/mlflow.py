"""MLflow: where MLFLOW_TRACKING_URI says, else `mlflow.db` and `mlruns` in the current folder."""

import time
from collections.abc import Mapping
from pathlib import Path

from gantry.files import write_text
from gantry.runs.folder import flattened
from gantry.runs.trackers.protocol import TrackedRun

EXPERIMENT = "gantry"
LONGEST = 500
"""Characters of a parameter; config.json, which is logged too, has all of them."""
AT_ONCE = 100
"""Parameters that MLflow takes in one call."""


class MLflow:
    """Logs to the experiment `gantry`; a resumed run goes on where it was."""

    def start(self, run: TrackedRun) -> None:
        """Begin a run, or go on with the one that is named in the run's folder."""
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._client, self._point = MlflowClient(), Metric
        kept = run.folder / "mlflow-id.txt"
        if kept.is_file():
            self._id = kept.read_text().strip()
            self._client.update_run(self._id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment is not None else self._client.create_experiment(EXPERIMENT)
        self._id = self._client.create_run(number, run_name=run.name).info.run_id
        params = [Param(name, str(value)[:LONGEST]) for name, value in flattened(run.config).items()]
        for start in range(0, len(params), AT_ONCE):
            self._client.log_batch(self._id, params=params[start : start + AT_ONCE])
        self._client.log_dict(self._id, run.config, "config.json")
        write_text(kept, self._id + "\n")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        now = round(1000 * time.time())
        self._client.log_batch(self._id, [self._point(name, value, now, step) for name, value in metrics.items()])

    def video(self, step: int, path: Path) -> None:
        """Keep a film among the run's artifacts."""
        self._client.log_artifact(self._id, str(path), "videos")

    def finish(self) -> None:
        """End the run."""
        self._client.set_terminated(self._id)
