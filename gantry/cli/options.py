"""Options of environments on the command line: `name=value`, physics to vary, disturbances."""

import json
from collections.abc import Sequence

from gantry.errors import GantryError
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
