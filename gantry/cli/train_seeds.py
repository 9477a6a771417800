"""`gantry train --seeds N`: the same training with N seeds, in processes side by side."""

import argparse
import concurrent.futures
import json
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from gantry.cli.options import whole_number
from gantry.cli.output import console, print_json
from gantry.errors import GantryError
from gantry.machine.cores import available_cores
from gantry.runs.interrupts import StopRequest, deferring, stop_with_parent
from gantry.runs.seeds import MOST_REPETITIONS
from gantry.types import Json

FORWARD_SECONDS = 0.2
"""How long a signal may wait before the processes hear of it."""

CHILD = "import sys, gantry.cli.train_seeds; sys.exit(gantry.cli.train_seeds.train_child())"
"""The program of a process that trains one seed."""


def train_child() -> int:
    """Run the command in a process that `train_seeds` began, which saves and ends when its parent does."""
    from gantry.cli import program

    stop_with_parent()
    return program()


def train_seeds(words: Sequence[str], has_begun: Callable[[Sequence[str]], bool]) -> None:
    """Train with seeds `--seed`, `--seed` + 1 and so on, as many at once as there are processor cores.

    Args:
        words: the command line.
        has_begun: whether there is a run that the command line of one seed resumes.

    Raises:
        GantryError: some of them failed; the message says how the first one did.
    """
    flags = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, default in (("--seeds", "1"), ("--seed", "0"), ("--out", None)):
        flags.add_argument(name, default=default)
    flags.add_argument("--json", action="store_true")
    flags.add_argument("--resume", action="store_true")
    given, rest = flags.parse_known_args(list(words))
    count, first = whole_number(given.seeds, "--seeds"), whole_number(given.seed, "--seed")
    if not 1 <= count <= MOST_REPETITIONS:
        raise GantryError(f"--seeds must be from 1 to {MOST_REPETITIONS}, not {count}")
    commands = {}
    for seed in range(first, first + count):
        out = ["--out", str(Path(given.out) / f"seed{seed}")] if given.out else []
        commands[seed] = [*rest, "--seed", str(seed), *out]
    begun = [seed for seed, command in commands.items() if has_begun(command)] if given.resume else []
    # Where there are none, each says that there is nothing to resume; else those whose turn had not come begin.
    resumed = begun or (commands if given.resume else [])
    trainings = []
    for seed, command in commands.items():
        fresh = [word for word in command if word != "--keep-schedules" or not given.resume]
        trainings.append(_Training([*command, "--resume"] if seed in resumed else fresh, seed))
    screen = console(given.json)
    with deferring("every seed has saved") as request:
        with concurrent.futures.ThreadPoolExecutor(min(count, available_cores())) as pool:
            waiting = {pool.submit(training.run, screen, request) for training in trainings}
            told = False
            while waiting:
                _, waiting = concurrent.futures.wait(waiting, FORWARD_SECONDS)
                if request.made and not told:
                    told = True
                    for training in trainings:
                        training.stop()
        if request.made:
            raise KeyboardInterrupt
    failed = [training for training in trainings if training.result is None]
    if failed:
        raise GantryError(f"{len(failed)} of {count} seeds failed; seed {failed[0].seed}: {failed[0].last_line}")
    results = [training.result for training in trainings if training.result is not None]
    screen.print(f"next: gantry plot {shlex.join(result['run'] for result in results)}", soft_wrap=True, markup=False)
    if given.json:
        print_json({"runs": results})


class _Training:
    """The training of one seed, in a process of its own.

    Attributes:
        result: what it printed as JSON, once it is done; None before, and where it failed.
        last_line: of what it said.
    """

    def __init__(self, words: Sequence[str], seed: int) -> None:
        self.seed, self.last_line = seed, ""
        self.result: Json | None = None
        self._command = [sys.executable, "-c", CHILD, "train", *words, "--json"]
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def run(self, screen: Console, request: StopRequest) -> None:
        """Train, and show what the process says, each line with the seed before it."""
        with self._lock:
            if request.made:
                return
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # closes when this process ends, however it does
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # Ctrl-C reaches the parent alone, which hands it on once
            )
        with self._process as process:
            assert process.stderr is not None
            assert process.stdout is not None
            for line in process.stderr:
                if line.strip():
                    self.last_line = line.strip().removeprefix("gantry: ")
                    screen.print(f"seed {self.seed}: {line.rstrip()}", soft_wrap=True, markup=False)
            output = process.stdout.read()
            if process.wait() == 0:
                self.result = json.loads(output.splitlines()[-1])

    def stop(self) -> None:
        """Let the process save and end."""
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
