"""`gantry inspect`: what a run, a policy, a trainer's state or a film holds."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.markup import escape
from rich.table import Table

from gantry.cli.output import console, parse, print_json
from gantry.errors import GantryError, shown

if TYPE_CHECKING:
    from gantry.runs.inspect import Sections


@dataclasses.dataclass(frozen=True)
class InspectArguments:
    """Show what a run, a policy, a trainer's state, an exported policy, a recipe or a film holds.

    Every file is read whole and its checksum compared; nothing in it is executed. What is damaged is answered by one
    line and exit code 1. Examples:

      gantry inspect runs/CartPoleSwingUp-v0-ppo-seed0

      gantry inspect videos/CartPoleSwingUp-v0-ppo-seed0.mp4 --json

      gantry inspect policy.onnx
    """

    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A run's or policy's folder, or a file: .json, .safetensors, .onnx, .mp4, .gif."""
    json: bool = False
    """Print one JSON object for a program to read."""


def main(words: Sequence[str]) -> None:
    """Run `gantry inspect`."""
    arguments = parse(InspectArguments, "inspect", words)
    sections = _sections(arguments.path)
    if arguments.json:
        print_json({"path": str(arguments.path), **sections})
        return
    screen = console(False)
    for title, entries in sections.items():
        table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2))
        for name, value in entries.items():
            table.add_row(escape(f"{name}"), escape(shown(value)))
        screen.print(table)
        screen.print()


def _sections(path: Path) -> "Sections":
    """Return what a path holds; raises GantryError where it is nothing of Gantry's, or damaged."""
    try:
        folder, there = path.is_dir(), path.exists()
    except (OSError, ValueError):
        folder = there = False
    if not there:
        raise GantryError(f"there is nothing at {shown(path)}")
    from gantry.runs import inspect

    if folder:
        return inspect.inspect_folder(path)
    kind = path.suffix.lower()
    if kind in (".mp4", ".gif"):
        from gantry.film.video import film_facts

        return {"film": film_facts(path)}
    if path.name in ("policy.json", "policy.safetensors"):
        return inspect.inspect_policy(path.parent)
    if kind == ".safetensors":
        return inspect.inspect_tensors(path)
    if kind == ".json":
        return inspect.inspect_json(path)
    if kind == ".onnx":
        from gantry.export.inspect import inspect_onnx

        return inspect_onnx(path)
    raise GantryError(f"{shown(path)} is not a file that Gantry writes: .json, .safetensors, .onnx, .mp4 or .gif")
