"""`gantry demo`: train, evaluate and film the cart-pole's swing-up."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from gantry.cli.output import console, parse

ENV_ID = "gantry/CartPoleSwingUp-v0"


@dataclasses.dataclass(frozen=True)
class DemoArguments:
    """Train a controller that swings a pole up, score it on seeds it never trained on, and film it.

    Example:
      gantry demo --out demo.mp4
    """

    out: Path = Path("videos/demo.mp4")
    """The film."""
    seed: int = 0
    """Seed of everything random."""


def main(words: Sequence[str]) -> None:
    """Run `gantry demo`."""
    arguments = parse(DemoArguments, "demo", words)
    from gantry.cli import evaluate, record, train

    started = time.perf_counter()
    folder = train.train_run([ENV_ID, "--agent", "ppo", "--seed", str(arguments.seed)]).folder
    evaluate.main([str(folder)])
    record.main([str(folder), "--out", str(arguments.out)])
    console(False).print(
        f"all in {time.perf_counter() - started:.0f} s; open {arguments.out} in a browser", markup=False
    )
