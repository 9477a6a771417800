"""The command line: `gantry COMMAND …`; each command's module is imported when it is called."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from gantry import __version__
from gantry.errors import GantryError, nearest

COMMANDS = {
    "list": "show the environments and the agents",
    "info": "show an environment: spaces, options, physics, reward terms, recipes",
    "train": "train an agent in an environment, live",
    "evaluate": "score a trained run on episodes it never saw",
    "record": "film a trained run",
    "table": "show the action values that Q-learning has learned",
    "plot": "draw the learning curves of runs beside one another",
    "optimize": "minimize a function of x and y, beside SciPy, and draw how it went",
    "solve": "plan an environment's episodes by optimal control, as a reference for agents",
    "demo": "train, evaluate and film the cart-pole's swing-up, in a minute",
    "bench": "measure Gantry against other suites, side by side",
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
        "`gantry COMMAND --help` explains each; `gantry --version` says which Gantry this is.\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    0: done; 1: an error that one line explains; 2: wrong usage; 130: stopped by Ctrl-C or `kill`.
    """
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"gantry {__version__}")
        return 0
    command = words[0]
    # `kill` and a closing terminal save the work as Ctrl-C does.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if command not in COMMANDS:
            raise GantryError(f"there is no command {command!r}{nearest(command, COMMANDS)}")
        importlib.import_module(f"gantry.cli.{command}").main(words[1:])
        sys.stdout.flush()
    except GantryError as error:
        print(f"gantry: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("gantry: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
