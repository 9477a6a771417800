"""Steps any Gymnasium vector environment, whatever its autoreset mode, and counts its steps and episodes.

What few environments need is in `autoreset` and `staggering`, imported where there is one.
"""

import contextlib
import dataclasses
import math
from collections import deque
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Stateful, Tensors, Undoable, restore, state_of, under
from gantry.errors import GantryError, shown
from gantry.files import config_from_json, config_to_json
from gantry.spaces.maps import ObservationMap, Spaces
from gantry.types import SUCCESS, Array, Infos, Json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from gantry.agents.parts.autoreset import SameStep
    from gantry.agents.parts.staggering import Staggering

Config = TypeVar("Config", bound="DataclassInstance")
WINDOW = 100
"""Finished episodes that metrics are means of."""


@runtime_checkable
class ResumableEnv(Protocol):
    """A vector environment that hands out its whole state, by name, and takes it back mid-episode."""

    def get_state(self) -> dict[str, Array]:
        """Return the state; an empty one where it is not known."""

    def set_state(self, state: dict[str, Array]) -> None:
        """Restore the state."""


@dataclasses.dataclass
class Transition:
    """What one vector step of n environments brought."""

    rewards: NDArray[np.float32]  # (n,)
    terminated: NDArray[np.bool_]  # (n,) the episode ended in a terminal state
    done: NDArray[np.bool_]  # (n,) the episode ended, terminated or truncated
    mask: NDArray[np.bool_]  # (n,) false where a step does not count: it only reset (NEXT_STEP), or exceeds the budget
    final_envs: NDArray[np.int64]  # (k,) indices of the environments where `done`
    final_observations: NDArray[np.float32]  # (k, d) the last ones of those episodes, before any reset
    elapsed: NDArray[np.int64] | None = None  # (n,) time that each step took, where it is not always 1


def require_vector(env: object) -> None:
    """Refuse what is not a vector environment, nor the spaces of one; raises GantryError."""
    if not isinstance(env, VectorEnv | Spaces):
        example = env if isinstance(env, str) else "module:ID"
        raise GantryError(
            f"an agent takes a vector environment, such as gantry.envs.make_vec({shown(example)!r}, 16), "
            f"not {shown(env)!r}"
        )


def settled(
    kind: type[Config] | tuple[type[Config], ...], config: Config, env: VectorEnv | Spaces, seed: int
) -> tuple[Config, int]:
    """Return settings for an environment, and a seed, with Python's numbers in place of NumPy's.

    Raises:
        GantryError: they are settings of another kind, it is not a vector environment, the seed is out of range, or
            PyTorch's default type is another than float32.
    """
    require_vector(env)
    if not isinstance(config, kind):
        names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise GantryError(f"the settings of this agent are a {names}, not {shown(repr(config))}")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**62:
        raise GantryError(f"seed must be a whole number from 0 to 2**62 - 1, not {shown(repr(seed))}")
    if torch.get_default_dtype() is not torch.float32:
        raise GantryError("agents compute in float32, but PyTorch's default is another type: set it back first")
    plain = config_from_json(type(config), config_to_json(config), "the settings")
    return dataclasses.replace(plain, num_envs=int(env.num_envs)), int(seed)


def generators(seed: int) -> tuple[torch.Generator, torch.Generator]:
    """Return an agent's generators: of learning, and of acting outside of it, so that acting does not change learning.

    Both are PyTorch's, on the CPU.
    """
    return torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 2**32)


def reset_seed(env: VectorEnv | Spaces, seed: int, env_seed: int | None) -> int:
    """Return the seed of an agent's first environment: `env_seed`, or one by which seeds share no environment.

    They repeat at 2^29, as generators of some environments take no large ones.
    """
    apart = max(2**12, 1 << (int(env.num_envs) - 1).bit_length())
    return seed * apart % 2**29 if env_seed is None else int(env_seed)


class VectorStepper:
    """Steps a vector environment of any autoreset mode and hands out flat observations.

    Args:
        env: the environment, or the spaces alone for a policy that only acts.
        seed: of the environment's first reset.
        stagger: truncate first episodes at evenly spread times (see `Staggering`); needs a time limit.

    Attributes:
        env_id: the environment's id, where known.
        observation: (n, d) float32, where the next step starts; treat as read-only.
        steps: environment steps so far that count.
        schedule_steps: steps over which schedules of settings run; None: the budget of `learn`.
        episodes: episodes finished so far, but for those cut short by staggering.
        restarted: the episodes under way began without the ones before having ended.
        must_reset: (n,) environments whose coming step does not count, whatever their action: it only resets them
            (NEXT_STEP autoreset), or they wait for the rest of their team (`infos["waiting"]`).
        staggering: cuts first episodes; None where they are not cut.
    """

    staggering: "Staggering | None" = None
    _stepped: "VectorEnv | SameStep | None" = None
    schedule_steps: int | None = None
    env_id: str | None = None

    def __init__(self, env: VectorEnv | Spaces, seed: int, stagger: bool = False) -> None:
        self.env, self.num_envs = env, env.num_envs
        self._observations = ObservationMap(env.single_observation_space)
        if isinstance(env, VectorEnv):
            self._stepped = env
            if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
                from gantry.agents.parts.autoreset import SameStep

                self._stepped = SameStep(env)
            self.env_id = env.spec.id if env.spec is not None else None
            limit = env.spec.max_episode_steps if env.spec is not None else None
            if stagger and limit and self.num_envs > 1:
                from gantry.agents.parts.staggering import Staggering

                self.staggering = Staggering(env, limit)
        self.observation = np.zeros((self.num_envs, self._observations.size), np.float32)
        self._ones = np.ones(self.observation.size, np.float32)
        self.steps, self.episodes, self.restarted = 0, 0, True
        self._seed, self._seeded = seed, False
        self.must_reset = np.zeros(self.num_envs, np.bool_)
        self._sums = np.zeros((3, self.num_envs))  # of the episodes under way: rewards, lengths, objectives
        self._objective_known = False  # whether the environment says what its own reward is, beside another one
        self._recent: deque[tuple[float, ...]] = deque(maxlen=WINDOW)  # return, length, objective, success
        self._copy: Tensors = {}

    def reset(self, seed: int | None = None, options: Json | None = None) -> NDArray[np.float32]:
        """Reset the environment, and return its observation vectors (n, d); raises GantryError as `step` does."""
        assert isinstance(self.env, VectorEnv)
        with np.errstate(over="ignore"):
            observation = self._observations.vectors(self.env.reset(seed=seed, options=options)[0])
        _check_finite(observation, observation[:0], np.zeros(0))
        return observation

    def begin_episodes(self) -> None:
        """Reset the environment with its seed, unless episodes are already under way."""
        if not self._seeded:
            self.restart(self._seed)
            if self.staggering is not None:
                self.staggering.begin()
            self._seeded = True

    def restart(self, seed: int | None = None) -> None:
        """Begin all episodes anew; without a seed the environment's random streams continue."""
        self.observation = self.reset(seed=seed)
        self.must_reset[:] = False
        self.restarted = True
        self._sums[:] = 0.0

    def step(self, actions: Array, budget: int | None = None, only: NDArray[np.bool_] | None = None) -> Transition:
        """Take one vector step.

        Args:
            actions: (n, *action shape), the environment's own.
            budget: steps that may still be counted; environments beyond it are masked out. None: no limit.
            only: (n,) environments whose step counts; None: all.

        Raises:
            GantryError: an observation or a reward is NaN or infinite.
        """
        assert self._stepped is not None
        acts = ~self.must_reset
        mask = acts if only is None else acts & only
        if budget is not None and budget < self.num_envs:
            mask = mask & (np.cumsum(mask) <= budget)
        raw, given, terminated, truncated, infos = self._stepped.step(actions)
        with np.errstate(over="ignore", invalid="ignore"):
            observation, rewards = self._observations.vectors(raw), np.asarray(given, np.float32)
            total = observation.reshape(-1).dot(self._ones) + rewards.dot(self._ones[: self.num_envs])  # a quick look
        done = np.logical_or(terminated, truncated) & acts
        (ended,), final = done.nonzero(), observation[:0]
        if len(ended):
            if "final_obs" not in infos:
                raise GantryError("the vector environment resets in the same step but its infos hold no 'final_obs'")
            final = self._observations.vectors(infos["final_obs"], ended)
        if (waiting := infos.get("waiting")) is not None:
            self.must_reset = np.asarray(waiting, np.bool_)
        if len(ended) or not math.isfinite(total):
            _check_finite(observation, final, rewards)
        self.observation = observation
        elapsed = infos.get("elapsed_steps")  # of a semi-Markov decision process, whose discount is γ to this power
        transition = Transition(rewards, np.asarray(terminated, np.bool_), done, mask, ended, final, elapsed)
        counts = mask
        if self.staggering is not None and self.staggering.active:
            counts = mask & ~self.staggering.cut(transition, self)
        self.restarted = False
        self.steps += int(np.count_nonzero(mask))
        self._sums[0] += rewards * mask
        self._sums[1] += mask if elapsed is None else elapsed * mask
        if (objective := infos.get("objective")) is not None and np.shape(objective) == (self.num_envs,):
            self._objective_known = True
            self._sums[2] += objective * mask
        for env in transition.final_envs.tolist():
            if counts[env]:
                self._recent.append((*self._sums[:, env].tolist(), _success(infos, env)))
                self.episodes += 1
            self._sums[:, env] = 0.0
        return transition

    def metrics(self) -> dict[str, float]:
        """Return steps, finished episodes, and means over the last ones; NaN while there is nothing to average.

        `objective_mean` is the mean return of the environment's own reward, where it rewards something else.
        """
        means = [math.nan] * 5
        if self._recent:
            *columns, successes = zip(*self._recent, strict=True)
            total, duration, objective = map(math.fsum, columns)
            number = len(successes)
            known = [success for success in successes if not math.isnan(success)]  # some tell it only where it is true
            success = math.fsum(known) / number if known else math.nan
            means = [total / number, duration / number, total / duration, success, objective / number]
        names = ("return_mean", "length_mean", "reward_mean", "success_mean", "objective_mean")
        counts = {"steps": float(self.steps), "episodes": float(self.episodes)}
        return {**counts, **dict(zip(names[: 4 + self._objective_known], means, strict=False))}

    # Saving, resuming and undoing

    def _parts(self) -> dict[str, Stateful]:
        arrays = {"observation": self.observation, "must_reset": self.must_reset, "sums": self._sums}
        return {**arrays, "staggering": self.staggering}

    def state(self, with_env: bool = True) -> Tensors:
        """Return everything that stepping depends on, with the environment's own state where it hands that out."""
        env = self._resumable_env() if with_env else None
        try:
            self.begin_episodes()
        except GantryError:  # it broke, and what was learned before is to be saved all the same
            env = None
        counts = [self.steps, self.episodes, self._seed, self.restarted, self._objective_known]
        recent = np.array(self._recent, np.float64).reshape(-1, 4)
        of_env = {} if env is None else {name: np.array(array) for name, array in env.get_state().items()}
        return state_of({**self._parts(), "counts": np.array(counts), "recent": recent, "env": of_env})

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned; an environment without a state of its own begins new, unseen episodes."""
        if len(tensors["observation"]) != self.num_envs:
            raise ValueError(f"it is of {len(tensors['observation'])} environments, not of {self.num_envs}")
        restore(self._parts(), tensors)
        self.steps, self.episodes, self._seed, restarted, known = tensors["counts"].tolist()
        self.restarted, self._objective_known = bool(restarted), bool(known)
        self._recent = deque(map(tuple, tensors["recent"].tolist()), WINDOW)
        env, content = self._resumable_env(), under(tensors, "env")
        self._seeded = env is not None and bool(content)
        if env is not None and content:
            env.set_state({name: tensor.numpy().copy() for name, tensor in content.items()})
        else:
            self._seed += self.steps

    def _resumable_env(self) -> ResumableEnv | None:
        return next((env for env in (self.env.unwrapped, self.env) if isinstance(env, ResumableEnv)), None)

    def _undoable_env(self) -> Undoable | None:
        """Return the environment if it undoes steps itself, because copies of its state would take too long."""
        own = self._resumable_env() is self.env.unwrapped
        return self.env if isinstance(self.env, Undoable) and not own else None

    @property
    def begins_anew(self) -> bool:
        """Whether new episodes begin next, as after `load_state` where the environment's state is not known."""
        return not self._seeded

    def mark(self) -> None:
        """Begin a stretch of steps that `rollback` undoes."""
        undoable = self._undoable_env()
        if undoable is not None:
            undoable.mark()
        self._copy = self.state(undoable is None)

    def rollback(self) -> None:
        """Return to the last `mark`; an environment that cannot, or that broke, begins new episodes."""
        seed, undoable = self._seed, self._undoable_env()
        try:
            self.load_state(self._copy)
            if undoable is not None:
                undoable.rollback()
                self._seed, self._seeded = seed, True
        except Exception:
            self._seeded = False  # the error that led here says what broke


def _check_finite(*numbers: NDArray[np.floating]) -> None:
    """Refuse observations (n, d), last observations (k, d) and rewards (n,) that hold NaN or infinity (GantryError)."""
    if not all(np.isfinite(each).all() for each in numbers):
        from gantry.agents.parts.divergence import not_finite

        raise not_finite(*numbers)


def _success(infos: Infos, env: int) -> float:
    """Return 1 or 0 where the environment says whether the episode that ended in `env` succeeded, else NaN."""
    final = infos.get("final_info")
    source = final if isinstance(final, dict) else infos
    for name in SUCCESS:
        if name in source:
            with contextlib.suppress(TypeError, ValueError, LookupError):  # not a number, or not this environment's
                if source.get(f"_{name}", {env: True})[env]:
                    return float(source[name][env])
    return math.nan
