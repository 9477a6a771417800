"""Shell completion: `gantry --install-completion bash`, zsh or fish, and `--print-completion`."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from gantry.agents import AGENTS
from gantry.cli.arguments import Flag, arguments_of, flags_of
from gantry.envs.registry import registered_tasks
from gantry.errors import GantryError, shown
from gantry.files import write_text

SHELLS = ("bash", "zsh", "fish")
Flags = dict[str, list[Flag]]
"""Command → what it can be given."""


def print_completion(words: list[str], commands: Mapping[str, str]) -> None:
    """Print the script that completes `gantry` in a shell."""
    print(completion(_shell(words), commands), end="")


def install_completion(words: list[str], commands: Mapping[str, str]) -> None:
    """Write the script to where the shell looks for it, and say what is left to do."""
    shell = _shell(words)
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = {
        "bash": data / "bash-completion" / "completions" / "gantry",
        "zsh": data / "zsh" / "site-functions" / "_gantry",
        "fish": settings / "fish" / "completions" / "gantry.fish",
    }[shell]
    write_text(path, completion(shell, commands))
    todo = {
        "bash": f"open a new shell; without the package bash-completion, add to ~/.bashrc: source {path}",
        "zsh": f"add to ~/.zshrc, above compinit: fpath=({path.parent} $fpath)",
        "fish": "open a new shell",
    }[shell]
    print(f"written: {path}\nnow {todo}")


def _shell(words: list[str]) -> str:
    """Return the shell that was named, else the user's own."""
    name = words[0] if words else Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS or len(words) > 1:
        raise GantryError(f"completion is for {', '.join(SHELLS)}, not {shown(name or 'no shell')!r}: name one of them")
    return name


def completion(shell: str, commands: Mapping[str, str]) -> str:
    """Return the script for bash, zsh or fish; paths of runs are completed by the shell itself.

    Args:
        shell: one of `SHELLS`.
        commands: name and summary of each command.
    """
    values = {"ENV": [*registered_tasks()], "COMMAND": [*commands], "--agent": [*AGENTS], "--agents": [*AGENTS]}
    flags = {
        command: [
            dataclasses.replace(flag, choices=tuple(values.get(flag.name) or values.get(flag.kind) or flag.choices))
            for flag in flags_of(arguments_of(command))
        ]
        for command in commands
    }
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands, flags)


def _names(flags: list[Flag]) -> list[str]:
    names = [flag.name for flag in flags if not flag.positional]
    names += [flag.name.replace("--", "--no-", 1) for flag in flags if flag.negatable and not flag.positional]
    return ["--help", *names]


TOP = ("--help", "--version", "--install-completion", "--print-completion")


def _cases(flags: list[Flag]) -> Iterator[tuple[str, str]]:
    for flag in flags:
        if not flag.positional and flag.choices:
            yield flag.name, " ".join(flag.choices)


def _places(flags: list[Flag]) -> str:
    return " ".join(value for flag in flags if flag.positional for value in flag.choices)


def _bash(commands: Mapping[str, str], flags_of_commands: Flags) -> str:
    before, after = [], []
    for command, flags in flags_of_commands.items():
        before += [f'    "{command} {name}") words="{values}" ;;' for name, values in _cases(flags)]
        after.append(f'    {command}) flags="{" ".join(_names(flags))}"; places="{_places(flags)}" ;;')
    return "\n".join(
        [
            "# Completes gantry in bash; written by `gantry --install-completion bash`.",
            "_gantry() {",
            '  local word="${COMP_WORDS[COMP_CWORD]}" last="${COMP_WORDS[COMP_CWORD-1]}" words="" flags="" places=""',
            "  COMPREPLY=()",
            '  if [ "$COMP_CWORD" -eq 1 ]; then',
            f'    COMPREPLY=($(compgen -W "{" ".join((*commands, *TOP))}" -- "$word")); return',
            "  fi",
            '  case "${COMP_WORDS[1]} $last" in',
            *before,
            '    *completion*) words="' + " ".join(SHELLS) + '" ;;',
            "  esac",
            '  if [ -n "$words" ]; then COMPREPLY=($(compgen -W "$words" -- "$word")); return; fi',
            '  case "${COMP_WORDS[1]}" in',
            *after,
            "  esac",
            '  case "$word" in',
            '    -*) COMPREPLY=($(compgen -W "$flags" -- "$word")) ;;',
            '    *) COMPREPLY=($(compgen -W "$places" -- "$word")) ;;',
            "  esac",
            "}",
            "complete -o default -F _gantry gantry",
            "",
        ]
    )


def _zsh(commands: Mapping[str, str], flags_of_commands: Flags) -> str:
    before, after = [], []
    for command, flags in flags_of_commands.items():
        before += [f'    "{command} {name}") compadd -- {values}; return ;;' for name, values in _cases(flags)]
        after.append(f"    {command}) flags=({' '.join(_names(flags))}); places=({_places(flags)}) ;;")
    described = [f"    {_quoted(f'{name}:{summary}')}" for name, summary in commands.items()]
    return "\n".join(
        [
            "#compdef gantry",
            "# Completes gantry in zsh; written by `gantry --install-completion zsh`.",
            "_gantry() {",
            "  local -a known flags places",
            "  if (( CURRENT == 2 )); then",
            "    known=(",
            *described,
            "    )",
            f"    if [[ $PREFIX == -* ]]; then compadd -- {' '.join(TOP)}; else _describe command known; fi",
            "    return",
            "  fi",
            '  case "$words[2] $words[CURRENT-1]" in',
            *before,
            f"    *completion*) compadd -- {' '.join(SHELLS)}; return ;;",
            "  esac",
            '  case "$words[2]" in',
            *after,
            "  esac",
            "  if [[ $PREFIX == -* ]]; then compadd -- $flags; else compadd -- $places; _files; fi",
            "}",
            'if [[ $funcstack[1] == _gantry ]]; then _gantry "$@"; else compdef _gantry gantry; fi',
            "",
        ]
    )


def _fish(commands: Mapping[str, str], flags_of_commands: Flags) -> str:
    lines = ["# Completes gantry in fish; written by `gantry --install-completion fish`."]
    for command, summary in commands.items():
        lines.append(f"complete -c gantry -f -n __fish_use_subcommand -a {command} -d {_quoted(summary)}")
    for option in TOP:
        values = f" -xa {_quoted(' '.join(SHELLS))}" if "completion" in option else ""
        lines.append(f"complete -c gantry -n __fish_use_subcommand -l {option.lstrip('-')}{values}")
    for command, flags in flags_of_commands.items():
        condition = f"complete -c gantry -n '__fish_seen_subcommand_from {command}'"
        for flag in flags:
            values = " ".join(flag.choices)
            if flag.positional:
                lines += [f"{condition} -a {_quoted(values)}"] if values else []
                continue
            takes = f" -xa {_quoted(values)}" if values else " -r" if flag.kind else ""
            lines.append(f"{condition} -l {flag.name.lstrip('-')}{takes} -d {_quoted(flag.meaning)}")
            if flag.negatable:
                lines.append(f"{condition} -l no-{flag.name.lstrip('-')}")
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    """Return a text in single quotes, which no shell looks into."""
    return "'" + text.replace("\\", "").replace("'", "’") + "'"
