"""Return, length and success of the episodes that learning has finished."""

import math
from collections import deque

import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Tensors


class EpisodeStatistics:
    """Return, length and success of the last `window` finished episodes of `num_envs` environments."""

    def __init__(self, num_envs: int, window: int = 100) -> None:
        self.count = 0
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, np.int64)
        self._recent: deque[tuple[float, int, float]] = deque(maxlen=window)

    def add(
        self, rewards: NDArray[np.float32], mask: NDArray[np.bool_], finished: NDArray[np.int64],
        cut: NDArray[np.bool_], success: NDArray[np.bool_] | None,
    ) -> None:  # fmt: skip
        """Take in one vector step with rewards (n,) of the environments in `mask` (n,).

        `finished` (k,) are those whose episode ended; means leave out the ones that were `cut` (n,) short on purpose.
        `success` (n,) says whether episodes succeeded; None where the environment does not tell.
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
        self._returns[finished], self._lengths[finished] = 0.0, 0

    def abandon(self) -> None:
        """Forget the unfinished episodes."""
        self._returns[:], self._lengths[:] = 0.0, 0

    def metrics(self) -> dict[str, float]:
        """Return the number of episodes so far and the window's means; NaN while there is nothing to average."""
        means = [math.nan] * 4
        if self._recent:
            returns, lengths, successes = zip(*self._recent, strict=True)
            total, number = math.fsum(returns), len(returns)
            means = [total / number, sum(lengths) / number, total / sum(lengths), math.fsum(successes) / number]
        names = ("return_mean", "length_mean", "reward_mean", "success_mean")
        return {"episodes": float(self.count), **dict(zip(names, means, strict=True))}

    def state(self) -> Tensors:
        """Return the sums of unfinished episodes, the window and the count as tensors."""
        return {
            "returns": torch.from_numpy(self._returns.copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
            "recent": torch.from_numpy(np.array(self._recent, np.float64).reshape(-1, 3)),
            "count": torch.tensor(self.count),
        }

    def load_state(self, tensors: Tensors) -> None:
        """Restore what `state` returned."""
        self._returns, self._lengths = (tensors[name].numpy().copy() for name in ("returns", "lengths"))
        self._recent.clear()
        self._recent.extend((total, int(length), success) for total, length, success in tensors["recent"].tolist())
        self.count = int(tensors["count"])
