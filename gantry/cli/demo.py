"""`gantry demo`: train, evaluate and film the cart-pole's swing-up."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from gantry.cli import evaluate, record, train
from gantry.cli.output import console, parse
from gantry.runs.folder import new_folder

ENVIRONMENT = "gantry/CartPoleSwingUp-v0"


@dataclasses.dataclass(frozen=True)
class DemoArguments:
    """Train a controller that swings a pole up, score it on seeds it never trained on, and film it."""

    out: Path = Path("videos/demo.mp4")
    """The film."""
    seed: int = 0
    """Of everything random."""


def main(words: Sequence[str]) -> None:
    """Run `gantry demo`."""
    arguments = parse(DemoArguments, "demo", words)
    begun = time.perf_counter()
    folder = new_folder(ENVIRONMENT, "ppo", arguments.seed)
    train.main([ENVIRONMENT, "--agent", "ppo", "--seed", str(arguments.seed), "--out", str(folder)])
    evaluate.main([str(folder)])
    record.main([str(folder), "--out", str(arguments.out)])
    console(False).print(f"all in {time.perf_counter() - begun:.0f} s; open {arguments.out} in a browser")
