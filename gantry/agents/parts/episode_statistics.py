"""Return, length and success of the episodes that learning has finished."""

import math
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray


class EpisodeStatistics:
    """Return, length and success of the last `window` finished episodes of `num_envs` environments."""

    def __init__(self, num_envs: int, window: int = 100) -> None:
        self.count = 0
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=window)

    def add(
        self,
        rewards: NDArray[np.float32],
        mask: NDArray[np.bool_],
        finished: NDArray[np.int64],
        cut: NDArray[np.bool_],
        success: NDArray[np.bool_] | None,
    ) -> None:
        """Take in one vector step.

        Args:
            rewards: (n,).
            mask: (n,) environments whose step counts.
            finished: (k,) indices of the environments whose episode ended.
            cut: (n,) episodes cut short on purpose, which are left out of the means.
            success: (n,) whether the episode succeeded, or None where the environment does not say.
        """
        self._returns += rewards * mask
        self._lengths += mask
        if len(finished) == 0:
            return
        for env in finished.tolist():
            if mask[env] and not cut[env]:
                succeeded = math.nan if success is None else float(success[env])
                self._recent.append((float(self._returns[env]), int(self._lengths[env]), succeeded))
                self.count += 1
        self._returns[finished] = 0.0
        self._lengths[finished] = 0

    def abandon(self) -> None:
        """Forget the unfinished episodes."""
        self._returns[:] = 0.0
        self._lengths[:] = 0

    def metrics(self) -> dict[str, float]:
        """Return the number of episodes so far and the window's means; NaN while there is nothing to average."""
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

    def state(self) -> dict[str, torch.Tensor]:
        """Return the sums of unfinished episodes, the window and the count as tensors."""
        return {
            "returns": torch.from_numpy(self._returns.copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
            "recent": torch.from_numpy(np.array(self._recent, np.float64).reshape(-1, 3)),
            "count": torch.tensor(self.count),
        }

    def load_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restore what `state` returned."""
        self._returns = tensors["returns"].numpy().copy()
        self._lengths = tensors["lengths"].numpy().copy()
        self._recent.clear()
        for episode_return, length, success in tensors["recent"].tolist():
            self._recent.append((episode_return, int(length), success))
        self.count = int(tensors["count"])
