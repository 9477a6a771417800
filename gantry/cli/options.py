"""Options of environments on the command line: `name=value`, physics to vary, disturbances."""

import json
from collections.abc import Sequence

from tyro.constructors import PrimitiveConstructorSpec

from gantry.errors import GantryError, shown
from gantry.types import Json


def parse_options(words: Sequence[str]) -> Json:
    """Return `name=value` words as a dictionary; values are JSON (true, 0.5, [1, 2]) or else plain text.

    Raises:
        GantryError: a word without `=`.
    """
    options: Json = {}
    for word in words:
        name, separator, text = word.partition("=")
        if not separator or not name:
            raise GantryError(f"an option of the environment is written name=value, not {word!r}")
        try:
            options[name.replace("-", "_")] = json.loads(text.lower() if text in ("True", "False") else text)
        except ValueError:
            options[name.replace("-", "_")] = text
    return options


def env_options(words: Sequence[str], randomize: str | None, disturb: str | None) -> Json:
    """Return what the flags --env, --randomize and --disturb ask of the environment, as JSON values.

    Raises:
        GantryError: a word that is no `name=value`.
    """
    options = parse_options(words)
    if randomize is not None:
        quantities = [word.strip() for word in randomize.split(",") if word.strip()]
        options["physics"] = {name: str(value) for name, value in parse_options(quantities).items()}
    if disturb is not None:
        options["disturb"] = disturb
    return options


def whole_number(text: str, what: str) -> int:
    """Return the whole number that is written as 100000, 100_000, 1e5 or 100k (k: thousand, m: million).

    Raises:
        GantryError: it is none; `what` names the flag.
    """
    word = text.strip().lower()
    factor = {"k": 1_000, "m": 1_000_000}.get(word[-1:], 1)
    digits = word[:-1] if factor > 1 else word
    try:
        number = int(digits) * factor if digits.lstrip("+-").replace("_", "").isdigit() else float(digits) * factor
        if number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise GantryError(f"{what} takes a whole number, such as 100000, 1e5 or 100k, not {shown(text)!r}")


WHOLE_NUMBER = PrimitiveConstructorSpec(
    nargs=1,
    metavar="INT",
    instance_from_str=lambda words: None if words[0] == "None" else whole_number(words[0], "the flag"),
    is_instance=lambda value: value is None or isinstance(value, int),
    str_from_instance=lambda value: [str(value)],
)
"""How a flag reads a whole number."""
