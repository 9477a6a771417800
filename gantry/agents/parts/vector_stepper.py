"""Steps any Gymnasium vector environment, whatever its autoreset mode, and counts its steps and episodes."""

import contextlib
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Tensors, Undoable, under
from gantry.agents.parts.spaces import ObservationMap, Spaces
from gantry.errors import GantryError
from gantry.types import SUCCESS, Array, Infos

if TYPE_CHECKING:
    from gantry.agents.parts.objective import ObjectiveReturns

WINDOW = 100
"""Finished episodes that metrics are means of."""


@runtime_checkable
class ResumableEnv(Protocol):
    """A vector environment that hands out its whole state, by name, and takes it back mid-episode."""

    def get_state(self) -> dict[str, Array]:
        """Return the state; an empty one where it is not known."""

    def set_state(self, state: dict[str, Array]) -> None:
        """Restore the state."""


@runtime_checkable
class TeamEnv(Protocol):
    """A vector environment of robots: `team_size` neighbors act in the same world and begin together."""

    team_size: int


@dataclass
class Transition:
    """What one vector step of n environments brought."""

    rewards: NDArray[np.float32]  # (n,)
    terminated: NDArray[np.bool_]  # (n,) the episode ended in a terminal state
    done: NDArray[np.bool_]  # (n,) the episode ended, terminated or truncated
    mask: NDArray[np.bool_]  # (n,) false where a step does not count: it only reset (NEXT_STEP), or exceeds the budget
    final_envs: NDArray[np.int64]  # (k,) indices of the environments where `done`
    final_observations: NDArray[np.float32]  # (k, d) the last ones of those episodes, before any reset
    elapsed: NDArray[np.int64] | None = None  # (n,) time that each step took, where it is not always 1


def reset_seed(env: VectorEnv | Spaces, seed: int, env_seed: int | None) -> int:
    """Return the seed of an agent's first environment: `env_seed`, or one by which seeds share no environment.

    They repeat at 2^29, as generators of some environments take no large ones.
    """
    apart = max(2**12, 1 << (int(env.num_envs) - 1).bit_length())
    return seed * apart % 2**29 if env_seed is None else int(env_seed)


class VectorStepper:
    """Steps a vector environment (SAME_STEP, NEXT_STEP or DISABLED autoreset) and hands out flat observations.

    Args:
        env: the environment, or the spaces alone for a policy that only acts.
        seed: of the environment's first reset.
        stagger: truncate first episodes at evenly spread times, so that environments do not run in phase; needs a time
            limit. An environment that ignores the `reset_mask` of `reset` counts as truncated everywhere, once.

    Attributes:
        env_id: the environment's id, where known.
        observation: (n, d) float32, where the next step starts; treat as read-only.
        steps: environment steps so far that count.
        schedule_steps: steps over which schedules of settings run; None: the budget of `learn`.
        episodes: episodes finished so far, but for those cut short by staggering.
        restarted: the episodes under way began without the ones before having ended.
        must_reset: (n,) environments whose coming step does not count, whatever their action: it only resets them
            (NEXT_STEP autoreset), or they wait for the rest of their team (`infos["waiting"]`).
    """

    def __init__(self, env: VectorEnv | Spaces, seed: int, stagger: bool = False) -> None:
        self.env, self.num_envs = env, env.num_envs
        self._observations = ObservationMap(env.single_observation_space)
        self.mode, limit = AutoresetMode.SAME_STEP, 0
        self.env_id: str | None = None
        self.schedule_steps: int | None = None
        if isinstance(env, VectorEnv):
            try:
                self.mode = AutoresetMode(mode := env.metadata.get("autoreset_mode"))
            except ValueError:
                line = f"metadata['autoreset_mode'] is {mode!r}; set it to a gymnasium AutoresetMode"
                raise GantryError(f"the vector environment's {line}") from None
            limit = (env.spec.max_episode_steps if env.spec is not None else None) or 0
            self.env_id = env.spec.id if env.spec is not None else None
        self.stagger = bool(stagger and limit and self.num_envs > 1)
        # Environment i is cut after so many steps; the last one's cut is the time limit itself.
        team = env.team_size if isinstance(env, TeamEnv) else 1
        worlds = self.num_envs // team
        self._cuts = (np.arange(1, worlds + 1) * limit // worlds).repeat(team)
        self.observation = np.zeros((self.num_envs, self._observations.size), np.float32)
        self._ones = np.ones(self.observation.size, np.float32)
        self.steps, self._vector_steps, self.episodes, self.restarted = 0, 0, 0, True
        self._seed, self._seeded = seed, False
        self.must_reset = np.zeros(self.num_envs, np.bool_)
        self._first_episode = np.ones(self.num_envs, np.bool_)
        self._returns, self._lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)  # of those under way
        self._recent: deque[tuple[float, float, float]] = deque(maxlen=WINDOW)  # return, length, success
        self._objective: ObjectiveReturns | None = None  # where an environment says what its own reward is
        self._copy: Tensors = {}

    def _reset(self, **settings: Any) -> NDArray[np.float32]:
        assert isinstance(self.env, VectorEnv)
        with np.errstate(over="ignore"):
            observation = self._observations.vectors(self.env.reset(**settings)[0])
        _check_finite(observation, observation[:0], np.zeros(0))
        return observation

    def begin_episodes(self) -> None:
        """Reset the environment with its seed, unless episodes are already under way."""
        if not self._seeded:
            self.restart(self._seed)
            self._first_episode[:] = True
            self._vector_steps, self._seeded = 0, True

    def restart(self, seed: int | None = None) -> None:
        """Begin all episodes anew; without a seed the environment's random streams continue."""
        self.observation = self._reset(seed=seed)
        self.must_reset[:] = False
        self.restarted = True
        self._returns[:], self._lengths[:] = 0.0, 0
        if self._objective is not None:
            self._objective.running[:] = 0.0

    def step(self, actions: Array, budget: int | None = None, only: NDArray[np.bool_] | None = None) -> Transition:
        """Take one vector step.

        Args:
            actions: (n, *action shape), the environment's own.
            budget: steps that may still be counted; environments beyond it are masked out. None: no limit.
            only: (n,) environments whose step counts; None: all.

        Raises:
            GantryError: an observation or a reward is NaN or infinite.
        """
        assert isinstance(self.env, VectorEnv)
        mask = ~self.must_reset
        if only is not None:
            mask &= only
        if budget is not None and budget < self.num_envs:
            mask &= np.cumsum(mask) <= budget
        raw, given, terminated, truncated, infos = self.env.step(actions)
        with np.errstate(over="ignore", invalid="ignore"):
            observation, rewards = self._observations.vectors(raw), np.asarray(given, np.float32)
            total = observation.reshape(-1) @ self._ones + rewards @ self._ones[: self.num_envs]  # the quickest look
        done = np.logical_or(terminated, truncated) & ~self.must_reset
        self._vector_steps += 1
        ended = np.flatnonzero(done)
        if len(ended) == 0:
            final = observation[:0]
        elif self.mode == AutoresetMode.SAME_STEP:
            if "final_obs" not in infos:
                raise GantryError("the vector environment resets in the same step but its infos hold no 'final_obs'")
            final = self._observations.vectors(infos["final_obs"], ended)
        else:
            final = observation[ended]
            if self.mode == AutoresetMode.DISABLED:
                observation = self._reset(options={"reset_mask": done})
        if self.mode == AutoresetMode.NEXT_STEP:
            self.must_reset = done.copy()
        elif (waiting := infos.get("waiting")) is not None:
            self.must_reset = np.asarray(waiting, np.bool_)
        if len(ended) or not math.isfinite(total):
            _check_finite(observation, final, rewards)
        self.observation = observation
        elapsed = infos.get("elapsed_steps")  # of a semi-Markov decision process, whose discount is γ to this power
        transition = Transition(rewards, np.asarray(terminated, np.bool_), done, mask, ended, final, elapsed)
        cut = self._cut(transition) if self.stagger else np.zeros(self.num_envs, np.bool_)
        self.restarted = False
        self.steps += int(np.count_nonzero(mask))
        self._returns += transition.rewards * mask
        self._lengths += mask if elapsed is None else elapsed * mask
        if (objective := infos.get("objective")) is not None and np.shape(objective) == (self.num_envs,):
            self._objective_returns().add(objective, mask)
        for env in transition.final_envs.tolist():
            self._end_episode(env, mask[env] and not cut[env], infos)
        return transition

    def _end_episode(self, env: int, counts: bool, infos: Infos) -> None:
        """Keep what the episode that ended in `env` brought, if it counts, and begin to add up the next one's."""
        if counts:
            self._recent.append((self._returns[env], self._lengths[env], _success(infos, env)))
            self.episodes += 1
        self._returns[env], self._lengths[env] = 0.0, 0
        if self._objective is not None:
            self._objective.end_episode(env, counts)

    def _objective_returns(self) -> "ObjectiveReturns":
        from gantry.agents.parts.objective import ObjectiveReturns as Returns  # few environments have one

        self._objective = self._objective or Returns(self.num_envs, WINDOW)
        return self._objective

    def metrics(self) -> dict[str, float]:
        """Return steps, finished episodes, and means over the last ones; NaN while there is nothing to average.

        `objective_mean` is the mean return of the environment's own reward, where it rewards something else.
        """
        means = [math.nan] * 4
        if self._recent:
            returns, lengths, successes = zip(*self._recent, strict=True)
            total, duration, number = math.fsum(returns), math.fsum(lengths), len(returns)
            known = [success for success in successes if not math.isnan(success)]  # some tell it only where it is true
            success = math.fsum(known) / number if known else math.nan
            means = [total / number, duration / number, total / duration, success]
        names = ("return_mean", "length_mean", "reward_mean", "success_mean")
        counts = {"steps": float(self.steps), "episodes": float(self.episodes)}
        objective = {} if self._objective is None else {"objective_mean": self._objective.mean()}
        return {**counts, **dict(zip(names, means, strict=True)), **objective}

    def _cut(self, transition: Transition) -> NDArray[np.bool_]:
        """Truncate the first episodes whose time has come; returns which (n,)."""
        self._first_episode &= ~transition.done
        cut = self._first_episode & (self._cuts <= self._vector_steps)
        if not cut.any():
            self.stagger = bool(self._first_episode.any())
            return cut
        before, self.observation = self.observation, self._reset(options={"reset_mask": cut})
        if not np.array_equal(self.observation[~cut], before[~cut]):  # the option is unknown: everything was reset
            cut, self.stagger = ~transition.done, False
            self.must_reset[:] = False
        self._first_episode &= ~cut
        transition.done |= cut
        final = np.zeros_like(before)
        final[transition.final_envs] = transition.final_observations
        final[cut] = before[cut]
        transition.final_envs = np.flatnonzero(transition.done)
        transition.final_observations = final[transition.final_envs]
        return cut

    # Saving, resuming and undoing

    def _arrays(self) -> dict[str, Array]:
        arrays = (self.observation, self.must_reset, self._first_episode, self._returns, self._lengths)
        return dict(zip(("observation", "must_reset", "first_episode", "returns", "lengths"), arrays, strict=True))

    def state(self, with_env: bool = True) -> Tensors:
        """Return everything that stepping depends on, with the environment's own state where it hands that out."""
        try:
            self.begin_episodes()
        except GantryError:  # it broke, and what was learned before is to be saved all the same
            with_env = False
        tensors = {name: torch.from_numpy(array.copy()) for name, array in self._arrays().items()}
        tensors["recent"] = torch.from_numpy(np.array(self._recent, np.float64).reshape(-1, 3))
        counts = [self.steps, self._vector_steps, self.episodes, self._seed, self.stagger, self.restarted]
        tensors["counts"] = torch.tensor(counts)
        if self._objective is not None:
            tensors |= self._objective.state()
        if with_env and (resumable := self._resumable_env()) is not None:
            for name, array in resumable.get_state().items():
                content = np.array(array)
                kind = content.dtype
                if kind.kind == "u" and kind.itemsize > 1:  # PyTorch has few unsigned types
                    content = content.view(f"i{kind.itemsize}")
                tensors[f"env.{kind}.{name}"] = torch.from_numpy(content)
        return tensors

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned; an environment without a state of its own begins new, unseen episodes."""
        if len(tensors["observation"]) != self.num_envs:
            raise ValueError(f"it is of {len(tensors['observation'])} environments, not of {self.num_envs}")
        self.steps, self._vector_steps, self.episodes, self._seed, stagger, restarted = tensors["counts"].tolist()
        self.stagger, self.restarted = bool(stagger), bool(restarted)
        for name, array in self._arrays().items():
            array[...] = tensors[name].numpy()
        self._recent = deque(map(tuple, tensors["recent"].tolist()), WINDOW)
        self._objective = None
        if "objective" in tensors:
            self._objective_returns().load_state(tensors)
        resumable, content = self._resumable_env(), under(tensors, "env")
        self._seeded = resumable is not None and bool(content)
        if resumable is not None and content:
            state = {}
            for key, tensor in content.items():
                kind, _, name = key.partition(".")
                state[name] = tensor.numpy().copy().view(kind)
            resumable.set_state(state)
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
