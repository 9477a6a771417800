"""The one error that users meet: a single line that says what is wrong and what to do."""

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path

LONGEST = 300
"""Characters of a path or a word that a message shows."""
LONGEST_LINE = 1500
"""Characters of a message, at most; the words that a user typed may be longer."""


class GantryError(Exception):
    """Bad input or a circumstance the user can mend; the message is one clear line.

    The command line prints the message without a traceback and exits with status 1.
    """

    def __init__(self, message: str) -> None:
        """Keep the message in one line, also where it quotes something longer, such as a space's bounds."""
        super().__init__(shown(" ".join(line.strip() for line in message.splitlines()), LONGEST_LINE))


class GantryWarning(RuntimeWarning):
    """What a user should know although work goes on; the command line prints the message in one line."""


class CannotWrite(GantryError):
    """A file or a folder cannot be written: no space, no permission."""


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ` (did you mean …?)` with the names closest to `name`, or the whole list where none is close."""
    folded = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    if close:
        return f" (did you mean {' or '.join(folded[match] for match in close)}?)"
    return f" (there are: {', '.join(folded.values())})"


def shown(text: object, longest: int = LONGEST) -> str:
    """Return a path or a word as a message shows it: without control characters, its middle cut where it is long."""
    line = "".join(each if each.isprintable() else " " if each.isspace() else "�" for each in str(text))
    half = (longest - 1) // 2
    return line if len(line) <= longest else f"{line[:half]}…{line[-half:]}"


def described(error: BaseException) -> str:
    """Return an exception's kind, message and place (file and line) in one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error  # a KeyError shows a string's quotes
    try:
        words = " ".join(str(text).split())
    except Exception:  # of others' making, as the error is
        words = ""
    kind = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{kind}: {words}{place}" if words else f"{kind}{place}"
