"""Plot how much a baseline reduces the variance of REINFORCE's gradient, over the course of a training.

    python scripts/baseline_variance.py docs/images/reinforce_variance.png

After each update the policy plays one batch of episodes, from which the variance of the gradient estimate is computed
with each baseline in turn; nothing is learned from that batch.
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gantry.benchmark.reinforce_variance import ENV_ID, EPISODES, variances
from gantry.machine.threads import torch_threads

SEED = 0
LABELS = {"none": "none", "mean": "mean of the other episodes", "value": "learned value"}


def main(path: str) -> None:
    """Measure, and save the picture to `path`."""
    with torch_threads(1):
        rows = variances(SEED)
    steps = [row["steps"] for row in rows]
    figure, axes = plt.subplots(figsize=(6.4, 4.2), dpi=110, layout="constrained")
    for baseline, label in LABELS.items():
        axes.semilogy(steps, [row[baseline] for row in rows], marker="o", markersize=3, label=label)
        print(baseline, " ".join(f"{row[baseline]:.4g}" for row in rows))
    print("return", " ".join(f"{row['return_mean']:.0f}" for row in rows))
    axes.set_xlabel("environment steps")
    axes.set_ylabel(f"variance of the gradient ({EPISODES} episodes)")
    axes.set_title(f"REINFORCE on {ENV_ID}: gradient variance by baseline", fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(title="baseline", fontsize=8, loc="outside lower center", ncols=len(LABELS))
    figure.savefig(path)


if __name__ == "__main__":
    main(sys.argv[1])
