"""One way to step any Gymnasium vector environment, whatever its autoreset mode, and to count its episodes."""

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.spaces import ObservationMap
from gantry.errors import GantryError


def open_environment(env_or_id: VectorEnv | str, num_envs: int, env_kwargs: dict[str, Any] | None = None) -> VectorEnv:
    """The vector environment itself, or for an id `num_envs` copies of it.

    Raises:
        GantryError: no such id, or the environment cannot be made, or it is no vector environment.
    """
    if isinstance(env_or_id, VectorEnv):
        return env_or_id
    if not isinstance(env_or_id, str):
        kind = type(env_or_id).__name__
        raise GantryError(f"agents learn from a gymnasium VectorEnv or an id, not {kind}; use gymnasium.make_vec")
    try:
        if gymnasium.spec(env_or_id).vector_entry_point is not None:
            return gymnasium.make_vec(env_or_id, num_envs, **(env_kwargs or {}))
        return gymnasium.make_vec(
            env_or_id, num_envs, "sync", vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}, **(env_kwargs or {})
        )
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        line = " ".join(str(error).split())
        raise GantryError(f"cannot make the environment {env_or_id!r}: {line}") from error


@dataclass
class Transition:
    """What one vector step brought.

    Attributes:
        rewards: (n,) float32.
        terminated: (n,) ended in a terminal state.
        done: (n,) the episode ended, terminated or truncated.
        final_rows: (k,) indices of the rows where `done`.
        final_observations: (k, d) float32, the last observations of those episodes.
        valid: (n,) false where the step only reset an environment (NEXT_STEP), or None where all are transitions.
    """

    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    done: NDArray[np.bool_]
    final_rows: NDArray[np.int64]
    final_observations: NDArray[np.float32]
    valid: NDArray[np.bool_] | None


class VectorStepper:
    """Steps a vector environment, SAME_STEP, NEXT_STEP or DISABLED alike, and hands out flat float32 observations.

    With `stagger` the first episodes are cut short (as truncations) at evenly spread times, so that the environments
    do not all run through their episodes in step: a batch then holds every phase of an episode. It needs a known time
    limit (`spec.max_episode_steps`); rows are reset through the `reset_mask` option of Gymnasium's vector reset. An
    environment that resets all its rows instead is met by taking every row as truncated, once, and staggering no more.

    Attributes:
        env: the environment.
        observation: (n, d) float32, where the next step starts; treat as read-only.
    """

    def __init__(self, env: VectorEnv, stagger: bool = False) -> None:
        self.env = env
        self.num_envs = env.num_envs
        self._map = ObservationMap(env.single_observation_space)
        self._flat = self._map.vectors
        self.size = self._map.size
        mode = env.metadata.get("autoreset_mode")
        try:
            self.mode = AutoresetMode(mode)
        except ValueError:
            raise GantryError(
                f"the vector environment's metadata['autoreset_mode'] is {mode!r}; set it to a gymnasium AutoresetMode"
            ) from None
        limit = getattr(env.spec, "max_episode_steps", None)
        self.stagger = bool(stagger and limit and self.num_envs > 1)
        # Row i is cut after so many steps; the last row's cut is the time limit itself.
        self._cuts = np.arange(1, self.num_envs + 1) * int(limit or 0) // self.num_envs
        self.observation = np.zeros((self.num_envs, self.size), np.float32)
        self._all_valid_next = True
        self._needs_reset = np.zeros(self.num_envs, np.bool_)  # NEXT_STEP: the coming step resets these rows
        self._first_episode = np.ones(self.num_envs, np.bool_)
        self._steps = 0

    def reset(self, seed: int | None) -> None:
        """Begin all episodes anew; None goes on with the random streams in use."""
        observation, _ = self.env.reset(seed=seed)
        self.observation = self._flat(observation)
        self._needs_reset[:] = False
        self._all_valid_next = True
        self._first_episode[:] = True
        self._steps = 0

    def restart(self) -> None:
        """Begin all episodes anew, going on with the environment's random streams."""
        observation, _ = self.env.reset()
        self.observation = self._flat(observation)
        self._needs_reset[:] = False
        self._all_valid_next = True

    @property
    def pending_resets(self) -> NDArray[np.bool_]:
        """(n,) the coming step only resets these rows; it is no transition."""
        return self._needs_reset

    def step(self, actions: NDArray[Any]) -> tuple[Transition, dict[str, Any]]:
        """Step with environment actions (n, *action shape); returns the transition and Gymnasium's infos."""
        raw, reward, terminated, truncated, infos = self.env.step(actions)
        observation = self._flat(raw)
        done = np.logical_or(terminated, truncated)
        valid = None if self._all_valid_next else ~self._needs_reset
        if valid is not None:
            done &= valid
        rewards = np.asarray(reward, np.float32)
        self._steps += 1
        rows = np.flatnonzero(done)
        if len(rows) == 0:
            final = observation[:0]
        elif self.mode == AutoresetMode.SAME_STEP:
            final = self._final_observations(infos, rows)
        else:
            final = observation[rows]
            if self.mode == AutoresetMode.DISABLED:
                observation = self._flat(self.env.reset(options={"reset_mask": done})[0])
        if self.mode == AutoresetMode.NEXT_STEP:
            self._needs_reset = done.copy()
            self._all_valid_next = len(rows) == 0
        transition = Transition(rewards, np.asarray(terminated, np.bool_), done, rows, final, valid)
        self.observation = observation
        if self.stagger:
            self._cut(transition, infos)
        return transition, infos

    def _final_observations(self, infos: dict[str, Any], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(k, d) last observations of `rows`: from an object array of arrays (Gymnasium's) or one (n, d) array."""
        final = infos.get("final_obs")
        if final is None:
            raise GantryError("the vector environment resets in the same step but its infos hold no 'final_obs'")
        if isinstance(final, dict):
            return self._flat({key: part[rows] for key, part in final.items()})
        if isinstance(final, np.ndarray) and final.dtype != object:
            return self._flat(final[rows])
        if isinstance(final[rows[0]], dict):
            return self._flat({key: np.stack([final[row][key] for row in rows]) for key in final[rows[0]]})
        return self._flat(np.stack([final[row] for row in rows]))

    def _cut(self, transition: Transition, infos: dict[str, Any]) -> None:
        """End the first episode of the rows whose time it is, as truncations; such episodes are not counted."""
        self._first_episode &= ~transition.done
        cut = self._first_episode & (self._cuts <= self._steps)
        if not cut.any():
            self.stagger = bool(self._first_episode.any())
            return
        before = self.observation
        after = self._flat(self.env.reset(options={"reset_mask": cut})[0])
        if not np.array_equal(after[~cut], before[~cut]):  # the option is not known here: every row was reset
            cut = ~transition.done
            self._needs_reset[:] = False
            self._all_valid_next = True
            self.stagger = False
        self._first_episode &= ~cut
        infos["cut"] = cut
        transition.done |= cut
        final = np.zeros_like(before)
        final[transition.final_rows] = transition.final_observations
        final[cut] = before[cut]
        transition.final_rows = np.flatnonzero(transition.done)
        transition.final_observations = final[transition.final_rows]
        self.observation = after

    @property
    def resumable(self) -> bool:
        """The environment can hand out its whole state and take it back."""
        inner = self.env.unwrapped
        return hasattr(inner, "get_state") and hasattr(inner, "set_state")

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON values from which stepping goes on exactly, where the environment is `resumable`."""
        tensors = {
            "observation": torch.from_numpy(self.observation.copy()),
            "needs_reset": torch.from_numpy(self._needs_reset.copy()),
            "first_episode": torch.from_numpy(self._first_episode.copy()),
        }
        dtypes: dict[str, str] = {}
        if self.resumable:
            for name, array in self.env.unwrapped.get_state().items():  # type: ignore[attr-defined]
                content = np.array(array)
                dtypes[name] = str(content.dtype)
                if content.dtype.kind == "u" and content.dtype.itemsize > 1:  # PyTorch knows few unsigned types
                    content = content.view(f"i{content.dtype.itemsize}")
                tensors[f"environment.{name}"] = torch.from_numpy(content)
        return tensors, {"steps": self._steps, "stagger": self.stagger, "environment": dtypes}

    def load_state(self, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        if self.resumable and meta["environment"]:
            self.env.unwrapped.set_state(  # type: ignore[attr-defined]
                {
                    name: tensors[f"environment.{name}"].numpy().copy().view(dtype)
                    for name, dtype in meta["environment"].items()
                }
            )
        self.observation = tensors["observation"].numpy().copy()
        self._needs_reset = tensors["needs_reset"].numpy().copy()
        self._all_valid_next = not self._needs_reset.any()
        self._first_episode = tensors["first_episode"].numpy().copy()
        self._steps = int(meta["steps"])
        self.stagger = bool(meta["stagger"])


class EpisodeStatistics:
    """Return, length and success of the last `window` finished episodes, in the order of steps, then of rows."""

    def __init__(self, num_envs: int, window: int = 100) -> None:
        self.count = 0
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=window)

    def add(self, transition: Transition, infos: dict[str, Any], counted: NDArray[np.bool_] | None) -> None:
        """Take in one vector step; `counted` (n,) leaves out rows that are no transitions (None: all count)."""
        if counted is None:
            self._returns += transition.rewards
            self._lengths += 1
        else:
            self._returns += transition.rewards * counted
            self._lengths += counted
        if len(transition.final_rows) == 0:
            return
        success = _success(infos)
        cut = infos.get("cut")
        for row in transition.final_rows.tolist():
            if (cut is None or not cut[row]) and (counted is None or counted[row]):
                succeeded = math.nan if success is None else float(success[row])
                self._recent.append((float(self._returns[row]), int(self._lengths[row]), succeeded))
                self.count += 1
        self._returns[transition.final_rows] = 0.0
        self._lengths[transition.final_rows] = 0

    def abandon(self) -> None:
        """Forget the episodes under way: they will not be finished."""
        self._returns[:] = 0.0
        self._lengths[:] = 0

    def metrics(self) -> dict[str, float]:
        """Episodes so far and the window's means; NaN while there is nothing to average."""
        returns = [entry[0] for entry in self._recent]
        lengths = [entry[1] for entry in self._recent]
        number = len(returns)
        total = math.fsum(returns)
        return {
            "episodes": float(self.count),
            "return_mean": total / number if number else math.nan,
            "length_mean": sum(lengths) / number if number else math.nan,
            "reward_mean": total / sum(lengths) if number else math.nan,
            "success_mean": math.fsum(entry[2] for entry in self._recent) / number if number else math.nan,
        }

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Accumulators and window as tensors, and the count."""
        recent = np.array(self._recent, np.float64).reshape(-1, 3)
        tensors = {
            "returns": torch.from_numpy(self._returns.copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
            "recent": torch.from_numpy(recent),
        }
        return tensors, {"count": self.count}

    def load_state(self, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        self._returns = tensors["returns"].numpy().copy()
        self._lengths = tensors["lengths"].numpy().copy()
        self._recent.clear()
        for episode_return, length, success in tensors["recent"].tolist():
            self._recent.append((episode_return, int(length), success))
        self.count = int(meta["count"])


def _success(infos: dict[str, Any]) -> NDArray[Any] | None:
    """(n,) whether episodes that ended now succeeded, where the environment says so at all."""
    for source in (infos.get("final_info"), infos):
        if isinstance(source, dict) and "success" in source:
            return np.asarray(source["success"])
    return None
