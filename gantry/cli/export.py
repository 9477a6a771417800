"""`gantry export`: write a trained policy as one ONNX file."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gantry.cli.output import console, parse, print_json
from gantry.errors import GantryError, shown
from gantry.runs.folder import Run


@dataclasses.dataclass(frozen=True)
class ExportArguments:
    """Write a trained policy as one ONNX file, which runs without Gantry and without PyTorch.

    Observation normalizer, network, action scaling and bounds are inside; names, units and bounds of what goes in and
    comes out are in the file's metadata. `gantry evaluate policy.onnx` scores it. Example:

      gantry export runs/CartPoleSwingUp-v0-ppo-seed0 policy.onnx --check
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, as `gantry train` named it."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The file to write, such as policy.onnx."""
    policy: Literal["last", "best"] = "last"
    """The policy as training left it, or the one that scored best while `--evaluate-every` evaluated it."""
    check: bool = False
    """Compare 10,000 actions with the run's own, and time them."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry export`."""
    arguments = parse(ExportArguments, "export", words)
    if arguments.out.suffix != ".onnx":
        raise GantryError(f"the file's name must end in .onnx, not {shown(arguments.out)}")
    run, started = Run(arguments.run), time.perf_counter()
    written = run.read_config()
    from gantry.export.onnx_file import export_policy

    export_policy(run, arguments.out, arguments.policy)
    seconds = time.perf_counter() - started
    screen = console(arguments.json)
    screen.print(
        f"{written.agent} in {written.env_id} → {arguments.out} ({seconds:.1f} s)", soft_wrap=True, markup=False
    )
    found = {}
    if arguments.check:
        from gantry.agents import load_agent
        from gantry.export.check import check_export
        from gantry.export.onnx_policy import OnnxPolicy

        agent = load_agent(run.policy_folder(arguments.policy))
        check = check_export(agent, OnnxPolicy(arguments.out), written.env_id, written.env_options)
        found = dataclasses.asdict(check)
        screen.print(
            f"{check.observations:,} actions: at most {check.largest_difference:.1e} from the run's own, "
            f"{check.different} of them by more than 1e-5; {check.microseconds:.1f} µs an action",
            soft_wrap=True,
            markup=False,
        )
    if arguments.json:
        print_json({"file": str(arguments.out), "seconds": seconds, **found})
