"""The command line: `gantry COMMAND …`; each command's module is imported when it is called."""

import atexit
import contextlib
import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from gantry import __version__
from gantry.errors import LONGEST_LINE, GantryError, GantryWarning, described, nearest, shown
from gantry.runs.interrupts import end_at_signals, ignore_signals, raising

COMMANDS = {
    "help": "explain a command, as --help does",
    "list": "show the environments and the agents",
    "info": "show an environment: spaces, options, physics, reward terms, recipes",
    "train": "train an agent in an environment, live",
    "tune": "search for an agent's settings in an environment, by Optuna",
    "evaluate": "score a trained run, or an exported policy, on episodes it never saw",
    "collect": "write a policy's episodes as a data set in Minari's format",
    "export": "write a trained policy as one ONNX file",
    "record": "film a trained run",
    "view": "watch and steer a run or an environment live, in a browser",
    "table": "show the action values that Q-learning has learned",
    "plot": "draw the learning curves of runs beside one another",
    "optimize": "minimize a function of x and y, beside SciPy, and draw how it went",
    "solve": "plan an environment's episodes by optimal control, as a reference for agents",
    "inspect": "show what a run, a policy, a trainer's state or a film holds",
    "doctor": "check this installation, and say how to get what is missing",
    "transfer": "score a policy over a grid of physics, with a heat map",
    "drive": "let a policy control a robot, real or simulated, at a fixed rate",
    "identify": "fit physical quantities to a robot's log, with intervals",
    "demo": "train, evaluate and film the cart-pole's swing-up, in a minute",
    "bench": "measure Gantry against other suites, side by side",
    "benchmark": "compare any agents on any environments, with statistics and a report",
}

INTRODUCTION = """\
Gantry trains controllers for simulated robots in seconds, films them without a screen, and measures itself against
other suites.

  gantry demo                                     see it work: train, evaluate, film
  gantry info gantry/CartPoleSwingUp-v0           show spaces, options and recipes
  gantry train gantry/CartPoleSwingUp-v0          train PPO with the shipped recipe
  gantry evaluate runs/CartPoleSwingUp-v0-ppo-seed0
  gantry record runs/CartPoleSwingUp-v0-ppo-seed0
"""


def usage() -> str:
    """Return the top-level help."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return (
        f"usage: gantry COMMAND …\n\n{INTRODUCTION}\ncommands:\n{commands}\n\n"
        "`gantry help COMMAND` explains each; `gantry --version` says which Gantry this is;\n"
        "`gantry --install-completion bash` (or zsh, fish) completes commands and flags;\n"
        "`gantry --print-completion bash` prints the script instead.\n"
    )


def program() -> int:
    """Run the command that the process was started for; a signal after its end ends the process quietly."""
    atexit.register(ignore_signals)  # the first to be registered, and so the last to be called
    status = main()
    end_at_signals(status)
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    0: done; 1: an error that one line explains; 2: wrong usage; 130: stopped by Ctrl-C, `kill` or a closing terminal;
    141: the reader of the output has gone.
    """
    _open_streams()
    with raising(), warnings.catch_warnings():
        warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
        try:
            status = _run([*(sys.argv[1:] if arguments is None else arguments)])
            sys.stdout.flush()
            return status
        except GantryError as error:
            return _say(str(error), 1)
        except KeyboardInterrupt:
            return _say("stopped", 130)
        except BrokenPipeError:  # the reader of our output, such as `head`, has gone
            _discard_output()
            return 141
        except OSError as error:  # such as an output on a full disk
            _discard_output()
            return _say(shown(described(error), LONGEST_LINE), 1)


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help") or words == ["help"]:
        print(usage(), end="")
        return 0 if words else 2
    if words[0] in ("--install-completion", "--print-completion"):
        from gantry.cli import completion

        installing = words[0] == "--install-completion"
        (completion.install_completion if installing else completion.print_completion)(words[1:], COMMANDS)
        return 0
    if words[0] == "--version":
        print(f"gantry {__version__}")
        return 0
    if words[0] == "help" and not words[1].startswith("-"):
        words = [*words[1:], "--help"]
    command = words[0]
    if command not in COMMANDS:
        raise GantryError(f"there is no command {shown(command)!r}{nearest(command, COMMANDS)}")
    importlib.import_module(f"gantry.cli.{command}").main(words[1:])
    return 0


def _say(line: str, status: int) -> int:
    with contextlib.suppress(OSError):  # nobody reads
        print(f"gantry: {line}", file=sys.stderr, flush=True)
    return status


def _show_warning(usual: Callable[..., None], message: Warning | str, category: type[Warning], *place: object) -> None:
    """Print a warning of Gantry's in one line, and others as usual."""
    if issubclass(category, GantryWarning):
        _say(str(message), 0)
    else:
        usual(message, category, *place)


def _open_streams() -> None:
    """Give the process the standard streams that its caller closed, and let them show any character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (as long as the process)
        elif hasattr(stream, "reconfigure") and (
            stream.errors == "strict" or stream.encoding.lower().replace("-", "") != "utf8"
        ):
            stream.reconfigure(errors="replace")


def _discard_output() -> None:
    """Let what is still buffered go nowhere, so that the interpreter's last flush does not fail."""
    with contextlib.suppress(OSError):  # it has no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
