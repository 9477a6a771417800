"""Plot the prediction errors and the calibration of a planner's dynamics model on data it was not fitted to."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gantry.agents.models.calibration import LEVELS, ModelAccuracy
from gantry.files import replacing

INCHES, DOTS_PER_INCH = (9.0, 3.6), 120
LINE, IDEAL = "#3b6fd4", "#8a8f98"


def draw_model_calibration(path: Path, accuracies: Sequence[ModelAccuracy]) -> None:
    """Draw the accuracy of the last updates' models.

    Left, the error 1 … H planning steps ahead, in standard deviations of the features: the median over updates as a
    line, the range as a band. Right, the fraction of true values inside the predicted central intervals, over the
    nominal fraction.

    Args:
        path: the picture, .png.
        accuracies: one per update, at least one.

    Raises:
        GantryError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(INCHES, layout="constrained")
    FigureCanvasAgg(picture)
    ahead, calibration = picture.subplots(1, 2)
    errors = np.stack([accuracy.multi_step_errors.numpy() for accuracy in accuracies])
    errors = errors[np.isfinite(errors).all(axis=1)]
    if len(errors):
        steps = np.arange(1, errors.shape[1] + 1)
        ahead.plot(steps, np.median(errors, 0), color=LINE, linewidth=1.8)
        ahead.fill_between(steps, errors.min(0), errors.max(0), color=LINE, alpha=0.18, linewidth=0)
        ahead.set_yscale("log")
    one = float(np.median([accuracy.one_step_rmse for accuracy in accuracies]))
    ahead.set(xlabel="planning steps ahead", ylabel="error (standard deviations of the features)",
              title=f"one-step RMSE: {one:.3f}")  # fmt: skip
    covered = np.stack([accuracy.coverage.numpy() for accuracy in accuracies])
    calibration.plot((0, 1), (0, 1), color=IDEAL, linewidth=1.0, linestyle="--", label="calibrated")
    calibration.plot(LEVELS, covered.mean(0), color=LINE, linewidth=1.8, label="ensemble")
    calibration.set(xlabel="central interval", ylabel="fraction of true values inside", xlim=(0, 1), ylim=(0, 1),
                    title=f"last {len(accuracies)} updates, before each fit")  # fmt: skip
    calibration.legend(frameon=False)
    for axes in (ahead, calibration):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        picture.savefig(temporary, dpi=DOTS_PER_INCH, format="png")
