"""What is known about an environment: spaces, time limit, options, physics to randomize, reward terms, recipes."""

import dataclasses
import itertools
import typing
from collections.abc import Mapping, Sequence
from typing import Literal

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from gantry.envs.capabilities import Disturbable, declared_physics
from gantry.envs.components import Component
from gantry.envs.domain_randomization import PhysicalParameter
from gantry.envs.simulator import Simulator
from gantry.runs.environments import canonical_id, find_task, open_env
from gantry.runs.inspect import space_in_words
from gantry.runs.recipes import Recipe, default_options, recipes_of, stepping
from gantry.runs.skills.environment import SkillsEnv
from gantry.types import Json, Options, Space


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of an environment."""

    name: str
    default: object
    choices: tuple[object, ...] = ()
    """Its values, where they are few and known."""


@dataclasses.dataclass(frozen=True)
class Interface:
    """What goes into and comes out of an environment's policies."""

    control_seconds: float | None
    """Simulated seconds per control step, where known."""
    observation: tuple[Component, ...]
    """The numbers that are observed."""
    action: tuple[Component, ...]
    """The numbers of an action, or the values of a Discrete one."""


@dataclasses.dataclass(frozen=True)
class Information:
    """What is known about an environment."""

    env_id: str
    summary: str
    time_limit: int | None
    """Control steps after which an episode is truncated; None: not limited."""
    control_seconds: float | None
    """Simulated seconds per control step, where known."""
    observation_space: str
    observation: tuple[Component, ...]
    """The numbers that are observed."""
    action_space: str
    action: tuple[Component, ...]
    """The numbers of an action, or the values of a Discrete one."""
    options: tuple[Option, ...]
    physics: Mapping[str, PhysicalParameter]
    """Quantities that `--randomize` can set or sample."""
    disturbances: tuple[str, ...]
    """What `--disturb` can do."""
    reward_terms: tuple[str, ...]
    """Names of the reward's terms."""
    metrics: tuple[str, ...]
    """Names of what is reported beside the reward."""
    stepping: str
    """How it is stepped, `in batches` or `one by one`, which default settings depend on."""
    recipes: tuple[Recipe, ...]

    def to_json(self) -> Json:
        """Return it as JSON values."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("observation", "action", "options"):
            plain[name] = [dataclasses.asdict(entry) for entry in plain[name]]
        plain["physics"] = {name: dataclasses.asdict(parameter) for name, parameter in self.physics.items()}
        plain["recipes"] = [
            {
                "agent": recipe.agent,
                "total_steps": recipe.total_steps,
                "env_options": dict(recipe.env_options),
                "source": recipe.source,
            }
            for recipe in self.recipes
        ]
        return plain


def information(env_id: str, env_options: Options | None = None) -> Information:
    """Return what is known about an environment, which is opened for it.

    Raises:
        GantryError: no such environment, or it cannot be made.
    """
    canonical = canonical_id(env_id)
    spec = find_task(canonical)
    env = open_env(canonical, 1, env_options)
    try:
        inner = env.unwrapped
        task = inner.task if isinstance(inner, Simulator) else None
        terms: tuple[str, ...] = ()
        if task is not None:
            env.reset(seed=0)
            env.action_space.seed(0)
            terms = tuple(name for name in env.step(env.action_space.sample())[4]["terms"] if name[0] != "_")
        limit = getattr(env.spec, "max_episode_steps", None)
        numbers = interface(env)
        return Information(
            env_id=canonical,
            summary=spec.summary if spec is not None else "",
            time_limit=limit,
            control_seconds=numbers.control_seconds,
            observation_space=space_in_words(env.single_observation_space),
            observation=numbers.observation,
            action_space=space_in_words(env.single_action_space),
            action=numbers.action,
            options=_options(canonical),
            physics=declared_physics(task) if task is not None else {},
            disturbances=("pushes", "balls") if isinstance(task, Disturbable) else (),
            reward_terms=terms,
            metrics=tuple(task.metrics(inner.features)) if task is not None and isinstance(inner, Simulator) else (),
            stepping=stepping(canonical, env_options),
            recipes=tuple(recipes_of(canonical)),
        )
    finally:
        env.close()


def interface(env: VectorEnv) -> Interface:
    """Return what goes into and comes out of policies in an environment, as far as its task names it."""
    inner = env.unwrapped
    task = inner.task if isinstance(inner, Simulator) else None
    observed = task.observation_components if task is not None else ()
    acted = task.action_components if task is not None else ()
    if isinstance(env, SkillsEnv):
        acted = env.action_components
    return Interface(
        inner.control_timestep if isinstance(inner, Simulator) else None,
        tuple(observed) or components_of(env.single_observation_space),
        tuple(acted) or components_of(env.single_action_space),
    )


def components_of(space: Space, key: str = "") -> tuple[Component, ...]:
    """Return the numbers of a space, as far as it tells: neighbors of the same bounds are one entry."""
    if isinstance(space, gymnasium.spaces.Dict):
        return tuple(entry for name, part in space.items() for entry in components_of(part, str(name)))
    if not isinstance(space, gymnasium.spaces.Box):
        return ()
    low, high = (np.asarray(bound, np.float64).ravel() for bound in (space.low, space.high))
    edges = [0, *(np.flatnonzero((low[1:] != low[:-1]) | (high[1:] != high[:-1])) + 1).tolist(), low.size]
    return tuple(
        Component(
            name=f"{first}" if last == first + 1 else f"{first} to {last - 1}",
            low=float(low[first]),
            high=float(high[first]),
            count=last - first,
            key=key,
        )
        for first, last in itertools.pairwise(edges)
    )


def _options(env_id: str) -> tuple[Option, ...]:
    """Return an environment's options with their defaults, and their values where annotations name them."""
    spec = find_task(env_id)
    hints: Json = {}
    fixed: Sequence[str] = ()
    if spec is not None:
        fixed = tuple(spec.options)
        hints = typing.get_type_hints(spec.load_class().__init__)
    usual = {name: value for name, value in default_options(env_id).items() if name not in (*fixed, "render_mode")}
    return tuple(Option(name, value, _choices(hints.get(name), value)) for name, value in usual.items())


def _choices(hint: object, default: object) -> tuple[object, ...]:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return (False, True) if isinstance(default, bool) else ()
