"""Steps any Gymnasium vector environment, whatever its autoreset mode, and counts its steps and episodes."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Tensors, prefixed, under
from gantry.agents.parts.episode_statistics import EpisodeStatistics
from gantry.agents.parts.spaces import ObservationMap, Spaces
from gantry.errors import GantryError
from gantry.types import Array, Infos


@runtime_checkable
class ResumableEnv(Protocol):
    """A vector environment that hands out its whole state, by name, and takes it back mid-episode."""

    def get_state(self) -> dict[str, Array]:
        """Return the state."""

    def set_state(self, state: dict[str, Array]) -> None:
        """Restore the state."""


@dataclass
class Transition:
    """What one vector step of n environments brought."""

    rewards: NDArray[np.float32]  # (n,)
    terminated: NDArray[np.bool_]  # (n,) the episode ended in a terminal state
    done: NDArray[np.bool_]  # (n,) the episode ended, terminated or truncated
    mask: NDArray[np.bool_]
    """(n,) false where the step is not to be learned from: it only reset an environment (NEXT_STEP autoreset), or is
    beyond the budget."""
    final_envs: NDArray[np.int64]  # (k,) indices of the environments where `done`
    final_observations: NDArray[np.float32]  # (k, d) the last ones of those episodes, before any reset


SEEDS_APART = 2**12
"""Environment seeds between those of consecutive seeds, where no more environments need room."""
ENV_SEEDS = 2**29
"""Environment seeds go up to here, as generators of some environments take no large ones; then they repeat."""


def reset_seed(env: VectorEnv | Spaces, seed: int, env_seed: int | None) -> int:
    """Return the seed of an agent's first environment: `env_seed`, or one by which seeds share no environment."""
    apart = SEEDS_APART
    while apart < env.num_envs:
        apart *= 2
    return seed * apart % ENV_SEEDS if env_seed is None else env_seed


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
        episodes: statistics of the finished episodes.
        restarted: the episodes under way began without the ones before having ended.
        must_reset: (n,) environments that the coming step only resets, whatever their action (NEXT_STEP autoreset).
    """

    def __init__(self, env: VectorEnv | Spaces, seed: int, stagger: bool = False) -> None:
        self.env, self.num_envs = env, env.num_envs
        self._observations = ObservationMap(env.single_observation_space)
        self.mode, limit = AutoresetMode.SAME_STEP, 0
        self.env_id: str | None = None
        self.schedule_steps: int | None = None
        if isinstance(env, VectorEnv):
            self.mode = _autoreset_mode(env)
            limit = (env.spec.max_episode_steps if env.spec is not None else None) or 0
            self.env_id = env.spec.id if env.spec is not None else None
        self.stagger = bool(stagger and limit and self.num_envs > 1)
        # Environment i is cut after so many steps; the last one's cut is the time limit itself.
        self._cuts = np.arange(1, self.num_envs + 1) * limit // self.num_envs
        self.observation = np.zeros((self.num_envs, self._observations.size), np.float32)
        self.episodes = EpisodeStatistics(self.num_envs)
        self.steps, self._vector_steps, self.restarted = 0, 0, True
        self._seed, self._seeded = seed, False
        self.must_reset = np.zeros(self.num_envs, np.bool_)
        self._first_episode = np.ones(self.num_envs, np.bool_)
        self._copy: Tensors = {}

    def _reset(self, **settings: Any) -> NDArray[np.float32]:
        assert isinstance(self.env, VectorEnv)
        return self._observations.vectors(self.env.reset(**settings)[0])

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
        self.episodes.abandon()

    def step(self, actions: Array, budget: int | None = None, only: NDArray[np.bool_] | None = None) -> Transition:
        """Take one vector step.

        Args:
            actions: (n, *action shape), the environment's own.
            budget: steps that may still be counted; environments beyond it are masked out. None: no limit.
            only: (n,) environments whose step counts; None: all.
        """
        assert isinstance(self.env, VectorEnv)
        mask = ~self.must_reset
        if only is not None:
            mask &= only
        if budget is not None and budget < self.num_envs:
            mask &= np.cumsum(mask) <= budget
        raw, rewards, terminated, truncated, infos = self.env.step(actions)
        observation = self._observations.vectors(raw)
        done = np.logical_or(terminated, truncated) & ~self.must_reset
        self._vector_steps += 1
        ended = np.flatnonzero(done)
        if len(ended) == 0:
            final = observation[:0]
        elif self.mode == AutoresetMode.SAME_STEP:
            final = self._final_observations(infos, ended)
        else:
            final = observation[ended]
            if self.mode == AutoresetMode.DISABLED:
                observation = self._reset(options={"reset_mask": done})
        if self.mode == AutoresetMode.NEXT_STEP:
            self.must_reset = done.copy()
        self.observation = observation
        transition = Transition(
            np.asarray(rewards, np.float32), np.asarray(terminated, np.bool_), done, mask, ended, final
        )
        cut = self._cut(transition) if self.stagger else np.zeros(self.num_envs, np.bool_)
        self.restarted = False
        self.steps += int(np.count_nonzero(mask))
        self.episodes.add(transition.rewards, mask, transition.final_envs, cut, _success(infos))
        return transition

    def _final_observations(self, infos: Infos, envs: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the last observations (k, d) of `envs`, which come as an array of objects or as one array."""
        final = infos.get("final_obs")
        if final is None:
            raise GantryError("the vector environment resets in the same step but its infos hold no 'final_obs'")
        if isinstance(final, dict):
            return self._observations.vectors({key: part[envs] for key, part in final.items()})
        chosen = [final[env] for env in envs]
        if isinstance(chosen[0], dict):
            return self._observations.vectors({key: np.stack([each[key] for each in chosen]) for key in chosen[0]})
        return self._observations.vectors(np.stack(chosen))

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

    def state(self) -> Tensors:
        """Return everything that stepping depends on, with the environment's own state where it hands that out."""
        self.begin_episodes()
        arrays = {"observation": self.observation, "must_reset": self.must_reset, "first_episode": self._first_episode}
        tensors = {
            **{name: torch.from_numpy(array.copy()) for name, array in arrays.items()},
            "counts": torch.tensor([self.steps, self._vector_steps, self._seed, self.stagger, self.restarted]),
            **prefixed("episodes", self.episodes.state()),
        }
        if isinstance(inner := self.env.unwrapped, ResumableEnv):
            for name, array in inner.get_state().items():
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
        self.episodes.load_state(under(tensors, "episodes"))
        self.steps, self._vector_steps, self._seed, stagger, restarted = tensors["counts"].tolist()
        self.stagger, self.restarted = bool(stagger), bool(restarted)
        arrays = (tensors[name].numpy().copy() for name in ("observation", "must_reset", "first_episode"))
        self.observation, self.must_reset, self._first_episode = arrays
        inner = self.env.unwrapped
        self._seeded = isinstance(inner, ResumableEnv)
        if isinstance(inner, ResumableEnv):
            state = {}
            for key, tensor in under(tensors, "env").items():
                kind, _, name = key.partition(".")
                state[name] = tensor.numpy().copy().view(kind)
            inner.set_state(state)
        else:
            self._seed += self.steps

    def mark(self) -> None:
        """Begin a stretch of steps that `rollback` undoes."""
        self._copy = self.state()

    def rollback(self) -> None:
        """Return to the last `mark`; an environment that cannot, or that broke, begins new episodes."""
        try:
            self.load_state(self._copy)
        except Exception:
            self._seeded = False  # the error that led here says what broke


def _autoreset_mode(env: VectorEnv) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode")
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise GantryError(
            f"the vector environment's metadata['autoreset_mode'] is {mode!r}; set it to a gymnasium AutoresetMode"
        ) from None


def _success(infos: Infos) -> NDArray[np.bool_] | None:
    """Return which episodes that ended now succeeded (n,), where the environment says so."""
    for source in (infos.get("final_info"), infos):
        if isinstance(source, dict) and "success" in source:
            return np.asarray(source["success"])
    return None
