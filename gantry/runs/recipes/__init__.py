"""Recipes: tuned settings for an agent in an environment, one module per family of environments.

Where there is no recipe, `default_settings` chooses by how the environment is stepped: in batches, or one by one.

Recipes name their agents' configurations, which import PyTorch; so a module of recipes is imported only when one of its
environments is asked for.
"""

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import gymnasium

from gantry.agents import agent_of_config, default_config
from gantry.agents.protocol import AgentConfig
from gantry.envs.factory import steps_in_batches
from gantry.envs.registry import find_task, is_parallel
from gantry.errors import GantryError
from gantry.runs.environments import SKILLS, registered_id
from gantry.types import Json, Options

FAMILIES: dict[str, str] = {
    "gantry/CartPole": "gantry.runs.recipes.cart_pole",
    "gantry/ReachPlanarOrder": "gantry.runs.recipes.skills",
    "gantry/VacuumHouse": "gantry.runs.recipes.skills",
    "gantry/Reach": "gantry.runs.recipes.reach",
    "gantry/Vacuum": "gantry.runs.recipes.vacuum",
    **dict.fromkeys(
        ("HalfCheetah-", "Hopper-", "InvertedPendulum-", "Reacher-", "Swimmer-", "Walker2d-"),
        "gantry.runs.recipes.gymnasium_mujoco",
    ),
    "": "gantry.runs.recipes.gymnasium_classics",
}
"""What an environment's id begins with → the module of its recipes; the first that fits."""

ANY_TASK = frozenset({"physics", "disturb", "reward", "shaping", "observe_physics", SKILLS, "skill_steps"})
"""Options that vary a task and leave it the same task, so that any recipe for the task fits them."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Tuned settings for an agent in an environment."""

    env_id: str
    """The environment, without a module."""
    config: AgentConfig
    """The agent's settings, which say which agent: their class, and for td3 twin critics."""
    total_steps: int
    """Environment steps that learning takes."""
    env_options: Options = dataclasses.field(default_factory=dict)
    """The environment's options that it was tuned for, where they are not the defaults."""
    skill_steps: int | None = None
    """Steps after which skills end, where its actions are skills; None: they are the environment's own."""
    source: str = ""
    """Where the settings are from, if they were not tuned here."""

    @property
    def agent(self) -> str:
        """The agent's id."""
        return agent_of_config(self.config)


Config = TypeVar("Config")
_REGISTERED: list[Recipe] = []


def register_recipe(recipe: Recipe) -> None:
    """Make a recipe known to `gantry train` and `gantry info`; a later one replaces an earlier one for the same case.

    For recipes of other packages: call it in the module that registers the task or the environment.

    Raises:
        GantryError: the configuration is not one of an agent of Gantry, or the number of steps is not positive.
    """
    if recipe.total_steps < 1:
        raise GantryError(f"a recipe's total_steps must be at least 1, not {recipe.total_steps}")
    case = _case(recipe)
    _REGISTERED[:] = [other for other in _REGISTERED if _case(other) != case]
    _REGISTERED.append(recipe)


def _case(recipe: Recipe) -> tuple[str, str, Json, bool]:
    return registered_id(recipe.env_id), recipe.agent, dict(recipe.env_options), recipe.skill_steps is not None


def recipes_of(env_id: str) -> list[Recipe]:
    """Return every recipe for an environment: others' first, then Gantry's, each in the order of registration."""
    name = registered_id(env_id)
    module = next(module for prefix, module in FAMILIES.items() if name.startswith(prefix))
    shipped: tuple[Recipe, ...] = importlib.import_module(module).RECIPES
    return [recipe for recipe in (*_REGISTERED, *shipped) if registered_id(recipe.env_id) == name]


def find_recipe(env_id: str, agent: str, asked: Options | None = None) -> Recipe | None:
    """Return the recipe for an agent in an environment with the options that were asked for, or None.

    A recipe fits where every option that was asked for has the value that the recipe was tuned for. Where several fit,
    the first one that was tuned for the environment's defaults is taken, then the first one.
    """
    above = SKILLS in (asked or {})
    asked = {name: value for name, value in (asked or {}).items() if name not in ANY_TASK}
    found = [
        recipe
        for recipe in recipes_of(env_id)
        if recipe.agent == agent.lower() and (recipe.skill_steps is not None) == above
    ]
    if asked and found:
        usual = default_options(env_id)
        found = [
            recipe
            for recipe in found
            if all({**usual, **recipe.env_options}.get(name, value) == value for name, value in asked.items())
            and asked.keys() <= {**usual, **recipe.env_options}.keys()
        ]
    return min(found, key=lambda recipe: bool(recipe.env_options), default=None)


def recipe_for(env_id: str, agent: str, asked: Options | None = None) -> Recipe:
    """Return the recipe that `find_recipe` finds.

    Raises:
        GantryError: there is none.
    """
    recipe = find_recipe(env_id, agent, asked)
    if recipe is None:
        raise GantryError(f"there is no recipe for {agent} in {env_id} with the options {dict(asked or {})}")
    return recipe


def default_settings(env_id: str, agent: str, asked: Options | None = None) -> AgentConfig:
    """Return an agent's settings for an environment that has no recipe for it.

    They depend on how the environment is stepped (`gantry.runs.recipes.defaults`), not on the speed of a machine, so
    that a seed gives the same numbers everywhere.

    Raises:
        GantryError: no such agent or environment.
    """
    usual: AgentConfig = default_config(agent)
    from gantry.runs.recipes.defaults import IN_BATCHES, ONE_BY_ONE

    settings = IN_BATCHES if steps_in_batches(env_id, asked) else ONE_BY_ONE
    return next((config for config in settings if agent_of_config(config) == agent.lower()), usual)


def stepping(env_id: str, asked: Options | None = None) -> str:
    """Return how an environment is stepped, in words."""
    return "in batches" if steps_in_batches(env_id, asked) else "one by one"


def tuned_config(env_id: str, kind: type[Config]) -> Config:
    """Return the tuned settings of an agent, given by the class of its settings, in an environment.

    Raises:
        GantryError: there is no recipe.
    """
    config = recipe_for(env_id, agent_of_config(kind())).config
    assert isinstance(config, kind)
    return config


def default_options(env_id: str) -> Json:
    """Return an environment's options and their default values, as far as they can be known."""
    name = registered_id(env_id)
    task = find_task(name)
    if task is not None:
        return {**_defaults(task.load_class()), **task.options}
    if is_parallel(env_id):
        from gantry.envs.parallel_rows import foreign_maker

        return _defaults(foreign_maker(env_id))
    spec = gymnasium.spec(name)
    if isinstance(spec.entry_point, str):
        module, _, attribute = spec.entry_point.partition(":")
        try:
            made: Any = getattr(importlib.import_module(module), attribute)
        except Exception:  # whatever it is, opening the environment will say it
            return dict(spec.kwargs)
    else:
        made = spec.entry_point
    return {**_defaults(made), **spec.kwargs}


def _defaults(made: Callable[..., object]) -> Json:
    """Return the parameters of a class or function that have defaults."""
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
