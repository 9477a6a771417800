"""What the commands share in talking to people and to programs."""

import contextlib
import dataclasses
import itertools
import json
import math
import sys
import time
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import tyro
from rich.console import Console

from gantry.cli.options import arranged
from gantry.errors import GantryError, shown
from gantry.types import Json

Arguments = TypeVar("Arguments")

SAY_SECONDS = 10.0
"""Time between lines where no one watches."""
ELSEWHERE = {
    "--algo": "--agent",
    "--algorithm": "--agent",
    "--total-timesteps": "--steps",
    "--n-timesteps": "--steps",
    "--timesteps": "--steps",
    "--n-envs": "--num-envs",
    "--lr": "--config.learning-rate",
}
"""Flags as other suites call them, and what they are called here."""


def flags_in(words: Sequence[str]) -> set[str]:
    """Return the flags that a command line gives."""
    return {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}


def parse(kind: type[Arguments], command: str, words: Sequence[str]) -> Arguments:
    """Return the flags of `gantry COMMAND`; on --help or wrong usage print and exit, as argparse does."""
    if {"-h", "--help"} & set(words):
        from gantry.cli.help import help_text

        print(help_text(kind, command), end="")
        raise SystemExit(0)
    fields = {field.name: field.type for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if "env" in fields and any(tyro.conf.Positional in getattr(of, "__metadata__", ()) for of in fields.values()):
        words = arranged(words, kind)[2]
    known = {f"--{name.replace('_', '-')}" for name in fields}
    for word in words:
        given = word.partition("=")[0]
        flag = given.replace("_", "-")
        here = ELSEWHERE.get(flag, "")
        if flag not in known and here.partition(".")[0] in known:
            print(f"gantry {command}: write {here} for {given}", file=sys.stderr)
            raise SystemExit(2)
    for flag, choices in _choices(kind):
        for word, following in itertools.pairwise([*words, ""]):
            given, separator, value = word.partition("=")
            value = value if separator else following
            if given.replace("_", "-") == flag and value not in ("", "None", *choices) and not value.startswith("--"):
                print(f"gantry {command}: {flag} takes {' or '.join(choices)}, not {shown(value)!r}", file=sys.stderr)
                raise SystemExit(2)
    return tyro.cli(kind, prog=f"gantry {command}", args=list(words), config=(tyro.conf.AvoidSubcommands,))


class _Screen(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `gantry.cli.main` to end with the status of a reader that has gone."""
        raise BrokenPipeError


def check_needed(words: Sequence[str], needed: Mapping[str, Sequence[str]]) -> None:
    """Refuse flags that do nothing without one of some others, where those are not given (GantryError)."""
    given = flags_in(words)
    for flag, others in needed.items():
        if flag in given and given.isdisjoint(others):
            raise GantryError(f"{flag} does nothing without {' or '.join(others)}: give that too, or leave it out")


def _choices(kind: type) -> Iterator[tuple[str, list[str]]]:
    """Yield the flags that may be left out or name one of a few words, and these."""
    for name, hint in typing.get_type_hints(kind).items():
        parts = typing.get_args(hint)
        if type(None) in parts and typing.get_origin(parts[0]) is typing.Literal:
            yield f"--{name.replace('_', '-')}", [str(each) for each in typing.get_args(parts[0])]


def console(json_output: bool) -> Console:
    """Return where people read: standard output, or standard error when a program reads the former."""
    return _Screen(file=sys.stderr if json_output else sys.stdout, highlight=False)


class Pulse:
    """Tells when a long command says how it goes: every ten seconds, where no one watches a progress bar."""

    def __init__(self, screen: Console) -> None:
        self._screen, self._said = screen, time.perf_counter()

    def due(self) -> bool:
        """Return whether a line is due; then the next one is ten seconds later."""
        now = time.perf_counter()
        if watched(self._screen) or now - self._said <= SAY_SECONDS:
            return False
        self._said = now
        return True


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 run" or "3 runs"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def watched(screen: Console) -> bool:
    """Return whether a bar can be shown: in a terminal or a notebook."""
    return screen.is_terminal or screen.is_jupyter


@contextlib.contextmanager
def telling(screen: Console) -> Iterator[Callable[[str], None]]:
    """Yield what shows how far something is: in one changing line, or where no one watches, a line for each change."""
    if watched(screen):
        with screen.status("") as status:
            yield status.update
        return
    last = ""

    def tell(line: str) -> None:
        nonlocal last
        if line != last:
            screen.print(f"  {line}", soft_wrap=True, markup=False)
            last = line

    yield tell


def print_json(content: Json) -> None:
    """Print one JSON object on one line, the last one of the output; NaN and infinity, which JSON lacks, as null."""
    print(json.dumps(_plain(content), allow_nan=False))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
