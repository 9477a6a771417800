"""A table of numbers as a CSV file, which grows by a row at a time and survives whatever stops the writer."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from gantry.errors import CannotWrite, GantryError
from gantry.files import write_bytes

NEWLINE = "\r\n"


class MetricsFile:
    """Rows of numbers with a header and a column `steps` that increases.

    Args:
        path: the file; the first row makes it.
        columns: some that it must have, beside `steps`.
    """

    def __init__(self, path: Path, columns: tuple[str, ...] = ()) -> None:
        self.path, self._required = path, {"steps", *columns}
        self._columns: list[str] = []

    def append(self, row: dict[str, float]) -> None:
        """Add a row, whole or not at all; columns that the first row does not have are left out.

        Raises:
            CannotWrite: no space, no permission.
        """
        lines = []
        if self._columns and not set(self._columns) <= set(row):
            self.set_aside()  # of another agent, though it could be read
        if not self._columns:
            self._columns = list(row)
            lines.append(",".join(self._columns))
        first = bool(lines)
        lines.append(",".join(_text(row[column]) for column in self._columns))
        content = "".join(line + NEWLINE for line in lines).encode()
        try:
            with self.path.open("wb" if first else "ab", buffering=0) as file:
                start = file.tell()
                try:
                    written = file.write(content)
                    if written != len(content):
                        raise OSError("the disk is full")
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(start)
                    raise
        except OSError as error:
            if first:
                self._columns = []
            raise CannotWrite(f"cannot write {self.path}: {error.strerror or error}") from error

    def flush(self) -> None:
        """Make what was written last through a power cut.

        Raises:
            CannotWrite: no space, no permission.
        """
        try:
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:
            return
        except OSError as error:
            raise CannotWrite(f"cannot write {self.path}: {error.strerror or error}") from error

    def read(self) -> list[dict[str, float]]:
        """Return the whole rows, oldest first; a row that a kill left unfinished is none.

        Raises:
            GantryError: the file is damaged.
        """
        try:
            header, rows = self._parsed()
        except ValueError as error:
            raise GantryError(f"{self.path} is damaged ({error}); delete it to go on without") from error
        return [dict(zip(header, map(float, row), strict=True)) for row in rows]

    def resume(self, steps: int) -> str | None:
        """Drop the rows beyond `steps` and prepare to append; return what is wrong with the file, if anything is.

        A damaged file is set aside under another name and a new one begins.
        """
        try:
            header, rows = self._parsed()
        except ValueError as error:
            return f"{self.path} is damaged ({error}): it is now {self.set_aside().name}, and a new one begins"
        kept = [row for row in rows if float(row[header.index("steps")]) <= steps]
        self._columns = header if kept else []
        if kept:
            write_bytes(self.path, "".join(",".join(row) + NEWLINE for row in (header, *kept)).encode())
        else:
            self.path.unlink(missing_ok=True)
        return None

    def set_aside(self) -> Path:
        """Rename the file, so that a new one begins with the next row; return its new path."""
        aside = self.path.with_name(f"{self.path.stem}.damaged{self.path.suffix}")
        self._columns = []
        try:
            self.path.replace(aside)
        except OSError as error:
            raise CannotWrite(f"cannot write {aside}: {error.strerror or error}; move {self.path} away") from error
        return aside

    def _parsed(self) -> tuple[list[str], list[list[str]]]:
        """Return the header and the whole rows, as text; ValueError says what is damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return [], []
        except OSError as error:
            raise ValueError(error.strerror or error) from error
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError("it is not text") from error
        lines = [line.rstrip("\r") for line in text.split("\n")[:-1]]  # the last line was not finished, or is empty
        if not lines:
            return [], []
        header, rows = lines[0].split(","), [line.split(",") for line in lines[1:]]
        if missing := sorted(self._required - set(header)):
            raise ValueError(f"its header names no column {missing[0]!r}")
        if len(set(header)) < len(header):
            raise ValueError("its header names a column twice")
        _check(header, rows)
        return header, rows


def _check(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Refuse rows that are not numbers under each of the columns, with steps that increase (ValueError)."""
    last, position = 0.0, header.index("steps")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"line {number} has {len(row)} entries, not {len(header)}")
        try:
            values = [float(entry) for entry in row]
        except ValueError:
            raise ValueError(f"line {number} holds something that is not a number") from None
        if not last < values[position] < 2**63:
            raise ValueError(f"line {number} does not follow the line before")
        last = values[position]


def _text(value: float) -> str:
    """Return the shortest text that reads back as the same number; whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
