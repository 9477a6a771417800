"""`gantry help`: what a command does and what it can be given, wrapped to the terminal."""

import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import Annotated

import tyro

from gantry.cli.arguments import Flag, flags_of

WIDEST, NAMES = 110, 26
"""Columns of the text, at most; columns up to which flags stand beside their meaning."""


@dataclasses.dataclass(frozen=True)
class HelpArguments:
    """Explain a command, as `gantry COMMAND --help` does; without one, list the commands.

    Example:
      gantry help train
    """

    command: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="COMMAND")] = ""
    """The command."""


def main(words: Sequence[str]) -> None:
    """Run `gantry help --help`; what names a command, `gantry.cli.main` hands to that command."""
    print(help_text(HelpArguments, "help"), end="")


def help_text(kind: type, command: str) -> str:
    """Return the help of a command whose arguments are those of a dataclass."""
    width = max(min(shutil.get_terminal_size().columns, WIDEST), 40)
    flags = [*flags_of(kind)]
    positional = [flag for flag in flags if flag.positional]
    names = [_named(flag) if flag.required else f"[{_named(flag)}]" for flag in positional]
    lines = [f"usage: gantry {' '.join([command, *names])} [OPTIONS]", "", *_description(kind, width)]
    own = [flag for flag in flags if not flag.positional and not flag.group]
    helping = Flag("-h, --help", "", "Show this and end.", "")
    sections = [("arguments", positional), ("options", [helping, *own])]
    groups = dict.fromkeys(flag.group for flag in flags if flag.group)
    sections += [(f"settings, {group}", [flag for flag in flags if flag.group == group]) for group in groups]
    for title, entries in sections:
        if entries:
            lines += ["", f"{title}:", *(line for flag in entries for line in _entry(flag, width))]
    return "\n".join(lines) + "\n"


def _description(kind: type, width: int) -> list[str]:
    """Return a docstring's paragraphs, wrapped; indented lines, which are commands, stay as they are."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(kind.__doc__ or "")):
        if paragraph.startswith(" "):
            lines += [f"  {line.strip()}" for line in paragraph.splitlines()]
            continue
        lines += [""] if lines else []
        text, *commands = re.split(r"\n(?=\s)", paragraph)
        lines += textwrap.wrap(" ".join(text.split()), width)
        lines += [f"  {line.strip()}" for line in commands]
    return lines


def _named(flag: Flag) -> str:
    """Return a positional argument's name as the usage line shows it."""
    return flag.kind if flag.kind.isupper() and flag.kind not in ("TEXT", "PATH") else flag.name


def _entry(flag: Flag, width: int) -> list[str]:
    """Return a flag with its meaning and default, in two columns."""
    if flag.positional:
        name = _named(flag) if not flag.choices else f"{flag.name} {flag.kind}"
    else:
        name = " ".join(filter(None, (flag.name, flag.kind)))
    if flag.negatable:
        name += f", {flag.name.replace('--', '--no-', 1)}"
    end = "(required)" if flag.required else f"(default: {flag.default})" if flag.default else ""
    text = " ".join(filter(None, (flag.meaning, end)))
    body = textwrap.wrap(text, width - NAMES - 2) or [""]
    indent = " " * (NAMES + 2)
    if len(name) < NAMES - 1:
        return [f"  {name:<{NAMES}}{body[0]}".rstrip(), *(indent + line for line in body[1:])]
    return [f"  {name}", *(indent + line for line in body)]
