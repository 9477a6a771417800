"""Logs of robots: what was observed and done, in a CSV file that a spreadsheet opens too.

The first line says which environment's robot it is, and at which rate; the second names the columns:

    # gantry log, gantry/CartPoleSwingUp-v0, 50 Hz
    episode,observation 0,observation 1,…,action 0,…

Then a row for each control step: the number of its episode, what was observed, and the action that was chosen for it.
The next row of the same episode follows one control step later.
"""

import csv
import dataclasses
import io
import re
from pathlib import Path

import numpy as np

from gantry.errors import GantryError, shown
from gantry.files import write_text

HEADER = re.compile(r"# gantry log, ([\w./:-]{1,200}), ([0-9.e+-]{1,20}) Hz")
LARGEST = 2**28
"""Bytes of a log that is read, at most."""


@dataclasses.dataclass(frozen=True)
class Log:
    """What a robot observed and did in T control steps."""

    env_id: str
    """The environment whose robot it is."""
    rate: float
    """Control steps per second."""
    episodes: np.ndarray
    """(T,) number of the episode that each step belongs to; those of one episode are consecutive."""
    observations: np.ndarray
    """(T, observation), in their units."""
    actions: np.ndarray
    """(T, action)."""

    @property
    def seconds(self) -> float:
        """Duration (s)."""
        return len(self.episodes) / self.rate

    def write(self, path: Path) -> None:
        """Write it, whole or not at all.

        Raises:
            CannotWrite: no permission, no space.
        """
        text = io.StringIO()
        text.write(f"# gantry log, {self.env_id}, {self.rate:.10g} Hz\n")
        table = csv.writer(text, lineterminator="\n")
        names = [f"observation {column}" for column in range(self.observations.shape[1])]
        names += [f"action {column}" for column in range(self.actions.shape[1])]
        table.writerow(["episode", *names])
        numbers = np.concatenate([self.observations, self.actions], axis=1).astype(np.float64)
        for episode, row in zip(self.episodes.tolist(), numbers.tolist(), strict=True):
            table.writerow([episode, *(f"{number:.9g}" for number in row)])
        write_text(path, text.getvalue())

    @staticmethod
    def read(path: Path) -> "Log":
        """Read what `write` wrote.

        Raises:
            GantryError: there is no such file, or it is not a log, or a damaged one; the message says where.
        """
        try:
            if path.stat().st_size > LARGEST:
                raise GantryError(f"{shown(path)} is larger than a log may be ({LARGEST / 2**20:.0f} MiB)")
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise GantryError(f"cannot read {shown(path)}: {getattr(error, 'strerror', None) or error}") from error
        found = HEADER.fullmatch(lines[0]) if lines else None
        if found is None or len(lines) < 3:
            raise GantryError(f"{shown(path)} is not a log of a robot: `gantry drive --log` writes one")
        names = next(csv.reader(lines[1:2]))
        width = sum(name.startswith("observation ") for name in names)
        acted = sum(name.startswith("action ") for name in names)
        if names[:1] != ["episode"] or not width or not acted or len(names) != 1 + width + acted:
            raise GantryError(f"{shown(path)} is damaged: its columns must be episode, observation …, action …")
        try:
            rate = float(found[2])
            table = np.array([[float(number) for number in row] for row in csv.reader(lines[2:])])
        except ValueError as error:
            raise GantryError(f"{shown(path)} is damaged: {error}") from error
        if table.ndim != 2 or table.shape[1] != len(names) or not np.isfinite(table).all() or not 0 < rate < 1e6:
            raise GantryError(f"{shown(path)} is damaged: every row must hold {len(names)} finite numbers")
        return Log(found[1], rate, table[:, 0].astype(np.int64), table[:, 1 : 1 + width], table[:, 1 + width :])
