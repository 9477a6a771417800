"""Options of environments on the command line: `name=value`, physics to vary, disturbances."""

import dataclasses
import json
import os
import re
import typing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

from tyro.constructors import PrimitiveConstructorSpec

from gantry.errors import GantryError, shown
from gantry.types import Json

if TYPE_CHECKING:
    from gantry.agents.protocol import Agent
    from gantry.runs.folder import RunConfig


def parse_options(words: Sequence[str]) -> Json:
    """Return `name=value` words as a dictionary; values are JSON (true, 0.5, [1, 2]) or else plain text.

    Raises:
        GantryError: a word without `=`, or a name that is given twice.
    """
    options: Json = {}
    for word in words:
        name, separator, text = word.partition("=")
        if not separator or not name:
            raise GantryError(f"an option of the environment is written name=value, not {shown(word)!r}")
        name = name.replace("-", "_")
        if name in options:
            raise GantryError(f"{shown(name)} is given twice; leave one of the two out")
        try:
            options[name] = json.loads(text.lower() if text in ("True", "False") else text)
        except (ValueError, RecursionError):
            options[name] = text
    return options


def env_options(words: Sequence[str], randomize: str | None, disturb: str | None, reward: str | None = None) -> Json:
    """Return what the flags --env, --randomize, --disturb and --reward ask of the environment, as JSON values.

    Raises:
        GantryError: a word that is not `name=value`.
    """
    options = parse_options(words)
    if randomize is not None:
        quantities = [word.strip() for word in randomize.split(",") if word.strip()]
        options["physics"] = {name: str(value) for name, value in parse_options(quantities).items()}
    if disturb is not None:
        options["disturb"] = disturb
    if reward is not None:
        from gantry.envs.reward_design import parse_reward  # imports MuJoCo

        options["reward"] = parse_reward(reward)
    return options


def environment_for(config: "RunConfig", agent: "Agent", env_id: str | None, changes: Json) -> tuple[str, Json]:
    """Return id and options of the environment for a run's policy: the training's, or another that fits.

    Args:
        config: the run's.
        agent: its policy.
        env_id: the environment; None: that of the training.
        changes: options in place of those of the training, which another environment does not get.

    Raises:
        GantryError: the other environment's observations or actions are not the policy's.
    """
    from gantry.runs.environments import open_training_env, registered_id

    if env_id is None or registered_id(env_id) == registered_id(config.env_id):
        return config.env_id, {**config.env_options, **changes}
    env = open_training_env(env_id, 1, changes)
    found, wanted = ((each.single_observation_space, each.single_action_space) for each in (env, agent.env))
    env.close()
    if found != wanted:
        raise GantryError(f"{env_id} has other observations or actions than {config.env_id}, where the policy learned")
    return env_id, changes


def whole_number(text: str, what: str = "") -> int:
    """Return the whole number that is written as 100000, 100_000, 1e5 or 100k (k: thousand, m: million).

    Raises:
        GantryError: it is none; `what` names the flag, where that is known.
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
    place = f"{what}: " if what else ""
    raise GantryError(f"{place}{shown(text)!r} is not a whole number, such as 100000, 1e5 or 100k")


WHOLE_NUMBER = PrimitiveConstructorSpec(
    nargs=1,
    metavar="INT",
    instance_from_str=lambda words: None if words[0] == "None" else whole_number(words[0]),
    is_instance=lambda value: value is None or isinstance(value, int),
    str_from_instance=lambda value: [str(value)],
)
"""How a flag reads a whole number."""


FILM_SIZES = {"480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080), "1440p": (2560, 1440)}
"""Width and height of films by the names that people know."""


def film_size(text: str) -> tuple[int, int]:
    """Return the width and height that are written as 1080p or 640x480.

    Raises:
        GantryError: it is neither.
    """
    word = text.strip().lower()
    sides = word.split("x")
    if word in FILM_SIZES:
        return FILM_SIZES[word]
    if len(sides) == 2 and all(side.isdecimal() and len(side) < 6 for side in sides):
        return int(sides[0]), int(sides[1])
    names = ", ".join(FILM_SIZES)
    raise GantryError(f"--size takes a width and a height, such as 640 480, or one of {names}, not {shown(text)!r}")


FILM_SIZE = PrimitiveConstructorSpec(
    nargs=1,
    metavar=f"{'|'.join(FILM_SIZES)}|W H",
    instance_from_str=lambda words: None if words[0] == "None" else film_size(words[0]),
    is_instance=lambda value: value is None or isinstance(value, tuple),
    str_from_instance=lambda value: [str(value)],
)
"""How a flag reads a film's size; `joined_size` comes before it."""


def joined_size(words: Sequence[str]) -> list[str]:
    """Return the words with the width and height after `--size` as one word."""
    joined: list[str] = []
    for word in words:
        flagged = len(joined) > 1 and joined[-2] == "--size"
        if flagged and word.lstrip("-").isdecimal() and joined[-1].lstrip("-").isdecimal():
            joined[-1] += f"x{word}"
        else:
            joined.append(word)
    return joined


def arranged(words: Sequence[str], kind: type) -> tuple[str | None, list[str], list[str]]:
    """Put a command's positional arguments first, wherever they stand, and join the options of all its --env flags.

    Args:
        words: the command line.
        kind: the dataclass of the command's arguments, of which one is positional, or several of one kind.

    Returns:
        The first positional argument or None, the options, and all words in the new order.
    """
    types = {"--" + field.name.replace("_", "-"): field.type for field in dataclasses.fields(kind)}
    several = {flag for flag, of in types.items() if typing.get_origin(of) is tuple}
    valued = {flag for flag, of in types.items() if of is not bool} - several
    takes_several = any(
        typing.get_origin(of) is Annotated and typing.get_origin(typing.get_args(of)[0]) is tuple
        for of in types.values()
    )
    positional: str | None = None
    first: list[str] = []
    options: list[str] = []
    rest: list[str] = []
    waiting = deque(words)

    def values(is_positional: Callable[[str], bool]) -> Iterator[str]:
        while waiting and not waiting[0].startswith("--"):
            if positional is None and is_positional(waiting[0]):
                return
            yield waiting.popleft()

    while waiting:
        word = waiting.popleft()
        flag, separator, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag == "--env":
            found = [value] if separator else list(values(lambda each: "=" not in each))
            options += found
            if not found and not separator:
                rest.append(word)  # with nothing to it, which the parser says
        elif flag.startswith("--config.") or flag in several:
            rest += [word, *([] if separator else values(_is_id))]
        elif flag in valued and not separator:
            rest += [word, *([waiting.popleft()] if waiting else [])]
        elif word.startswith("-") or (first and not takes_several):
            rest.append(word)
        else:
            first.append(word)
            positional = first[0]
    return positional, options, [*first, *rest, *(["--env", *options] if options else [])]


def _is_id(word: str) -> bool:
    """Return whether a word looks like an environment's id rather than a setting's value or a run's folder."""
    return (":" in word or re.search(r"-v\d+$", word) is not None) and not os.path.exists(word)
