"""What all agents have in common: spaces, acting, learning to an exact budget, saving, and going on after a stop.

An agent fills in the hooks at the end of the class. One level of common code, and no more: each algorithm's own file
still reads from its paper to its loop.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.ladder.policy_file import (
    Policy,
    check_tensors,
    config_from_json,
    config_to_json,
    load_policy,
    save_policy,
)
from gantry.agents.parts.spaces import ActionMap, ObservationMap, check_spaces
from gantry.agents.ladder.stepping import EpisodeStatistics, Transition, VectorStepper, open_environment
from gantry.agents.parts.threads import torch_threads
from gantry.errors import GantryError

Callback = Callable[[Any, dict[str, float]], bool | None]
Shapes = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Name → shape and type of a tensor."""
State = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""Tensors, and values fit for JSON."""


class Agent(ABC):
    """Learns from a Gymnasium vector environment and acts in it.

    Attributes:
        config: settings, every default written out.
        env: the vector environment, or None for a policy that was loaded for acting alone.
        environment: id of the environment, where known.
        steps: environment steps learned from so far.
    """

    name: ClassVar[str]
    """Under which the agent is registered."""
    config_class: ClassVar[type]
    """The dataclass of its settings; `num_envs` and `device` are among them."""
    staggers: ClassVar[bool] = False
    """Whether first episodes are cut short at evenly spread times, where `config.stagger_first_episodes` says so."""

    def __init__(
        self,
        env_or_id: VectorEnv | str,
        config: Any = None,
        seed: int = 0,
        env_seed: int | None = None,
        env_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Build what the environment's spaces need.

        Args:
            env_or_id: any vector environment, or an id of which `config.num_envs` copies are made.
            config: settings; None takes the defaults.
            seed: of initial weights, exploration and shuffling; no global random state is used or changed.
            env_seed: with which the environment is first reset; None takes `seed`.
            env_kwargs: passed on to the environment, where an id is given.

        Raises:
            GantryError: the environment cannot be made, or its spaces are none that the agent handles.
        """
        config = config or self.config_class()
        env = open_environment(env_or_id, config.num_envs, env_kwargs)
        environment = env_or_id if isinstance(env_or_id, str) else getattr(env.spec, "id", None)
        with torch_threads(1):  # also the decomposition behind the first weights rounds by the number of threads
            self._start(env.single_observation_space, env.single_action_space, config, seed, environment)
        self._attach(env, seed if env_seed is None else env_seed)

    def _start(
        self,
        observation_space: gymnasium.Space[Any],
        action_space: gymnasium.Space[Any],
        config: Any,
        seed: int,
        environment: str | None,
    ) -> None:
        """All that acting needs."""
        self.check_spaces(observation_space, action_space)
        self.observation_space, self.action_space, self.env_id = observation_space, action_space, environment
        self.config = config
        self.steps = 0
        self.env: VectorEnv | None = None
        self._generator = torch.Generator().manual_seed(seed)
        # Acting draws from a stream of its own, so that evaluating in between does not change what is learned.
        self._acting_generator = torch.Generator().manual_seed(seed + 2**32)
        self._observation_map = ObservationMap(observation_space)
        self._action_map = self._map_actions()
        self._build()

    def _attach(self, env: VectorEnv, env_seed: int) -> None:
        """Take up an environment to learn from."""
        mine, theirs = self._observation_map, ObservationMap(env.single_observation_space)
        if (mine.size, set(mine.slices)) != (theirs.size, set(theirs.slices)):
            raise GantryError(
                f"the policy observes {_described(self.observation_space)}, "
                f"the environment gives {_described(env.single_observation_space)}"
            )
        if env.single_action_space != self.action_space:
            raise GantryError(f"the policy acts in {self.action_space}, the environment in {env.single_action_space}")
        self.env = env
        self.config = dataclasses.replace(self.config, num_envs=env.num_envs)
        self._env_seed = env_seed
        self._stepper = VectorStepper(env, self.staggers and self.config.stagger_first_episodes)
        self._episodes = EpisodeStatistics(env.num_envs)
        self._needs_reset = True
        self._prepare()

    # Acting

    def act(self, observation: Any, deterministic: bool = True) -> NDArray[Any]:
        """Environment actions for one observation, or for a batch of them.

        Args:
            observation: (*observation shape) or (k, *observation shape), or a dictionary of such.
            deterministic: the action that the agent thinks best; else one drawn as in learning.

        Returns:
            (*action shape) or (k, *action shape), within the action space's bounds.

        Raises:
            GantryError: another shape, no numbers, NaN or infinity.
        """
        rows, single = self._observation_map.given(observation)
        with torch.no_grad(), torch_threads(1):
            actions = self._action_map.to_environment(self._decide(rows, deterministic))
        return actions[0] if single else actions

    # Learning

    def learn(self, total_steps: int, callback: Callback | None = None) -> Self:
        """Learn until the agent has had `total_steps` environment steps in all, exactly.

        What comes last is shortened, and of its last vector step only the needed rows count. A step that merely
        resets an environment (NEXT_STEP autoreset) is no environment step.

        Args:
            total_steps: counted from the agent's beginning, so that calling again with the same number after a stop
                goes on to the same end.
            callback: called with the agent and its metrics after each update; returning False stops.

        Raises:
            GantryError: there is no environment, or a loss became NaN or infinite. After any exception, an interrupt
                included, the agent is as it was after its last whole update.
        """
        if self.env is None:
            raise GantryError("this policy was loaded without an environment; pass one to load() to learn on")
        while self.steps < total_steps:
            self._begin_episodes()
            before = self._snapshot()
            try:
                metrics = self._advance(total_steps)
            except BaseException:
                self._restore(before)
                raise
            metrics = {"steps": float(self.steps), **self._episodes.metrics(), **metrics}
            if callback is not None and callback(self, metrics) is False:
                break
        return self

    def _begin_episodes(self) -> None:
        """Reset the environment, where that is due."""
        if self._needs_reset:
            self._stepper.reset(self._env_seed)
            self._episodes.abandon()
            self._needs_reset = False

    def _counted(self, remaining: int) -> NDArray[np.bool_] | None:
        """(n,) rows of the coming vector step that count, as resets and the budget allow; None where all do."""
        resets = self._stepper.pending_resets
        if not resets.any() and remaining >= len(resets):
            return None
        active = ~resets
        return active & (np.cumsum(active) <= remaining)

    def _note(self, transition: Transition, infos: dict[str, Any], counted: NDArray[np.bool_] | None) -> None:
        """Count a vector step and note what it says of the episodes, in the rows `counted` (n,), or in all for None."""
        self._episodes.add(transition, infos, counted)
        self.steps += len(transition.rewards) if counted is None else int(counted.sum())

    def _check_finite(self, *values: float) -> None:
        """Stop learning where a loss or the length of its gradient is no finite number.

        Raises:
            GantryError: one is not.
        """
        if not all(map(np.isfinite, values)):
            raise GantryError(
                f"learning stopped after {self.steps} steps: the loss or its gradient is NaN or infinite; the last "
                "good policy is kept; lower learning_rate, or look for NaN or huge values in observations and rewards"
            )

    # Saving, and going on

    def save(self, folder: str | Path) -> None:
        """Write `policy.safetensors` and `policy.json`: all that acting needs, whole or not at all.

        Raises:
            GantryError: the folder cannot be written.
        """
        save_policy(
            folder,
            Policy(
                self.name,
                self.env_id,
                self.observation_space,
                self.action_space,
                config_to_json(self.config),
                self._policy_tensors(),
                self.steps,
            ),
        )

    @classmethod
    def load(cls, folder: str | Path, env: VectorEnv | str | None = None, seed: int = 0) -> Self:
        """The agent that `save` wrote, for acting, or with `env` for learning on (with a fresh optimizer).

        A policy that learned on a GPU comes to the processor where there is none.

        Raises:
            GantryError: files missing, damaged, of another agent, or not fitting `env`.
        """
        policy = load_policy(folder, cls.name)
        settings = dict(policy.config)
        if settings.get("device") == "cuda" and not torch.cuda.is_available():
            settings["device"] = "cpu"
        config = config_from_json(cls.config_class, settings, str(Path(folder) / "policy.json"))
        cls.check_spaces(policy.observation_space, policy.action_space)
        expected = cls._expected_tensors(policy.observation_space, policy.action_space, config)
        check_tensors(policy.tensors, expected, str(Path(folder) / "policy.safetensors"))
        agent = cls.__new__(cls)
        with torch_threads(1):
            agent._start(policy.observation_space, policy.action_space, config, seed, policy.environment)
        agent._load_policy_tensors(policy.tensors)
        agent.steps = policy.steps
        if env is not None:
            agent._attach(open_environment(env, config.num_envs), seed)
        return agent

    def trainer_state(self) -> State:
        """All that learning on needs: tensors, and values fit for JSON.

        Where the environment has `get_state` and `set_state` (name → array), `load_trainer_state` and `learn` give
        the very numbers of a run that never stopped; other environments begin new episodes.

        Raises:
            GantryError: there is no environment.
        """
        if self.env is None:
            raise GantryError("this policy was loaded without an environment; it has no trainer state")
        self._begin_episodes()
        tensors, meta = self._common_state()
        learner_tensors, learner = self._learner_state()
        return {**tensors, **prefixed("learner", learner_tensors)}, {**meta, "learner": learner}

    def _common_state(self) -> State:
        """The state of all but the learner itself."""
        stepper_tensors, stepper = self._stepper.state()
        episode_tensors, episodes = self._episodes.state()
        tensors = {
            **prefixed("policy", self._policy_tensors()),
            "generator": self._generator.get_state(),
            "acting_generator": self._acting_generator.get_state(),
            **prefixed("stepper", stepper_tensors),
            **prefixed("episodes", episode_tensors),
        }
        meta = {
            "agent": self.name,
            "steps": self.steps,
            "num_envs": self.config.num_envs,
            "env_seed": self._env_seed,
            "stepper": stepper,
            "episodes": episodes,
        }
        return tensors, meta

    def load_trainer_state(self, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Take over what `trainer_state` returned, also in another process; the agent has the same settings.

        Raises:
            GantryError: it is of another agent, damaged, or of other settings.
        """
        if self.env is None:
            raise GantryError("this policy was loaded without an environment; it cannot take up a trainer state")
        if meta.get("agent") != self.name or meta.get("num_envs") != self.config.num_envs:
            raise GantryError(
                f"the trainer state is of {meta.get('agent')!r} with {meta.get('num_envs')} environments, "
                f"not of {self.name!r} with {self.config.num_envs}"
            )
        expected = self._expected_tensors(self.observation_space, self.action_space, self.config)
        check_tensors(under(tensors, "policy"), expected, "the trainer state")
        try:
            self._load_common((tensors, meta), exactly=True)
            self._load_learner_state(under(tensors, "learner"), meta["learner"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            line = " ".join(str(error).split())
            raise GantryError(f"the trainer state is damaged or of other settings ({line}); train again") from error
        if not self._stepper.resumable:
            self._needs_reset = True
            # Another part of the environment's random stream than the episodes already learned from.
            self._env_seed = int(meta["env_seed"]) + self.steps

    def _load_common(self, state: State, exactly: bool = False) -> None:
        """Take over what `_common_state` returned; unless `exactly`, an environment that cannot begins new episodes."""
        tensors, meta = state
        self._load_policy_tensors(under(tensors, "policy"))
        self.steps = int(meta["steps"])
        self._env_seed = int(meta["env_seed"])
        self._generator.set_state(tensors["generator"])
        self._acting_generator.set_state(tensors["acting_generator"])
        self._episodes.load_state(under(tensors, "episodes"), meta["episodes"])
        try:
            self._stepper.load_state(under(tensors, "stepper"), meta["stepper"])
            self._needs_reset = not self._stepper.resumable
        except Exception:
            if exactly:
                raise
            self._needs_reset = True  # the environment itself broke; the error that led here says how

    def _snapshot(self) -> Any:
        """What `_restore` needs to undo the coming update. Learners with a large memory keep less than all of it."""
        return self.trainer_state()

    def _restore(self, before: Any) -> None:
        """Go back to what `_snapshot` returned."""
        self._load_common(before)
        self._load_learner_state(under(before[0], "learner"), before[1]["learner"])

    # What an agent fills in

    @classmethod
    def check_spaces(cls, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
        """Refuse spaces that the agent cannot handle.

        Raises:
            GantryError: says which, and what to do.
        """
        check_spaces(observation_space, action_space)

    def _map_actions(self) -> ActionMap:
        """How the policy's actions become the environment's."""
        return ActionMap(self.action_space)

    @abstractmethod
    def _build(self) -> None:
        """Make networks and whatever else acting needs, from the spaces, `config` and `_generator`."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make what learning needs beside that, for the environment that has just been attached."""

    @abstractmethod
    def _decide(self, observations: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        """Policy actions, (k, A) float32 or (k,) integers as `ActionMap` takes them, for observations (k, d)."""

    @abstractmethod
    def _advance(self, total_steps: int) -> dict[str, float]:
        """Step the environment and learn from it, up to the next update; returns the update's own metrics."""

    @abstractmethod
    def _policy_tensors(self) -> dict[str, torch.Tensor]:
        """Copies of everything that acting and judging depend on: weights and running statistics."""

    @abstractmethod
    def _load_policy_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take over what `_policy_tensors` returned."""

    @classmethod
    @abstractmethod
    def _expected_tensors(
        cls, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], config: Any
    ) -> Shapes:
        """Name, shape and type of each of `_policy_tensors`."""

    @abstractmethod
    def _learner_state(self) -> State:
        """Copies of what learning needs beside policy, generators, stepper and statistics: optimizers, buffers."""

    @abstractmethod
    def _load_learner_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        """Take over what `_learner_state` returned."""


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under "prefix.name"."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with "prefix.", without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _described(space: gymnasium.Space[Any]) -> str:
    """A Box by its shape, as its bounds may be long; anything else as it prints itself."""
    return f"shape {space.shape}" if isinstance(space, gymnasium.spaces.Box) else str(space)
