"""The one error that users meet: a single line that says what is wrong and what to do."""

import difflib
from collections.abc import Iterable


class GantryError(Exception):
    """Bad input or a circumstance the user can mend; the message is one clear line.

    The command line prints the message without a traceback and exits with status 1.
    """


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ` (did you mean …?)` with the names closest to `name`, or the whole list where none is close."""
    folded = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    if close:
        return f" (did you mean {' or '.join(folded[match] for match in close)}?)"
    return f" (there are: {', '.join(folded.values())})"
