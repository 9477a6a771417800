"""Hints for names that do not exist."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ` (did you mean …?)` with the names closest to `name`, or the whole list where none is close."""
    folded = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)
    if close:
        return f" (did you mean {' or '.join(folded[match] for match in close)}?)"
    return f" (there are: {', '.join(folded.values())})"
