"""A recipe as a JSON file: what `gantry tune` writes and `gantry train --recipe` reads."""

from pathlib import Path

from gantry.agents import config_class, default_config
from gantry.errors import GantryError, shown
from gantry.files import config_from_json, config_to_json, read_json, write_json
from gantry.runs.recipes import Recipe
from gantry.types import Json

FORMAT = 1
"""Version of the file's layout."""


def write_recipe(path: Path, recipe: Recipe, found: Json | None = None) -> None:
    """Write a recipe with every setting, and how it was found, whole or not at all.

    Raises:
        GantryError: the file cannot be written.
    """
    content = {
        "format": FORMAT,
        "env_id": recipe.env_id,
        "env_options": dict(recipe.env_options),
        "agent": recipe.agent,
        "total_steps": recipe.total_steps,
        "config": config_to_json(recipe.config),
    }
    write_json(path, {**content, "found": found} if found is not None else content)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; settings that the file does not name have their defaults.

    Raises:
        GantryError: the file is missing or damaged, or a setting is unknown or out of range.
    """
    content = read_json(path)
    types: dict[str, type] = {"env_id": str, "env_options": dict, "agent": str, "total_steps": int, "config": dict}
    for name, kind in types.items():
        if not isinstance(content.get(name), kind) or isinstance(content[name], bool):
            raise GantryError(
                f"{shown(path)} is not a recipe ({name!r} is missing or wrong); `gantry tune` writes them"
            )
    if content.get("format", FORMAT) != FORMAT:
        raise GantryError(f"{shown(path)} was written by a later version of Gantry")
    if content["total_steps"] < 1:
        raise GantryError(f"{shown(path)}: total_steps must be at least 1, not {content['total_steps']}")
    settings = {**config_to_json(default_config(content["agent"])), **content["config"]}
    config = config_from_json(config_class(content["agent"]), settings, shown(path))
    return Recipe(content["env_id"], config, content["total_steps"], content["env_options"])
