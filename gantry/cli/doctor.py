"""`gantry doctor`: what this installation has, what it lacks, and how to get it."""

import dataclasses
from collections.abc import Sequence

from rich.markup import escape

from gantry.cli.output import console, parse, print_json
from gantry.errors import GantryError

COLORS = {"ok": "green", "optional": "yellow", "broken": "red"}


@dataclasses.dataclass(frozen=True)
class DoctorArguments:
    """Check this installation: versions, cores, graphics, video encoder, disk, and a self-test of a few seconds.

    Says what is missing and how to get it. The exit code is 0 where everything that Gantry needs works, else 1; what
    only some commands need is optional. Example:

      gantry doctor
    """

    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry doctor`."""
    arguments = parse(DoctorArguments, "doctor", words)
    from gantry.benchmark.installation import checks

    screen, found = console(arguments.json), []
    for check in checks():
        found.append(check)
        mark = f"[{COLORS[check.state]}]{check.state:<8}[/]"
        remedy = f"; {check.remedy}" if check.remedy else ""
        screen.print(f"{mark}  {escape(f'{check.name}: {check.found}{remedy}')}", soft_wrap=True)
    broken = [check.name for check in found if check.state == "broken"]
    if arguments.json:
        print_json({"healthy": not broken, "checks": [dataclasses.asdict(check) for check in found]})
    if broken:
        raise GantryError(f"broken: {', '.join(broken)}; what to do is said above")
    screen.print("everything that Gantry needs works")
