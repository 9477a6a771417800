"""Running statistics that scale observations and rewards to unit variance.

Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979,
equation 2.1 (which, for a batch of one, is Welford's update).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from gantry.spaces.maps import EPSILON, LIMIT


class RunningMoments:
    """Running mean and variance of vectors, merged batch by batch in double precision.

    Attributes:
        mean: (d,) float64.
        variance: (d,) float64, of the population (divided by the count); 1 until something was seen.
        count: number of vectors seen.
    """

    STATE = ("mean", "variance", "count")

    def __init__(self, size: int) -> None:
        self.mean, self.variance, self.count = np.zeros(size), np.ones(size), 0

    def update(self, batch: NDArray[np.floating]) -> None:
        """Merge a batch (k, d) into the statistics."""
        if len(batch) == 0:
            return
        batch_mean = batch.mean(axis=0, dtype=np.float64)
        centered = batch - batch_mean
        batch_variance = np.einsum("kd,kd->d", centered, centered) / len(batch)
        if self.count == 0:
            self.mean, self.variance, self.count = batch_mean, batch_variance, len(batch)
            return
        total, difference = self.count + len(batch), batch_mean - self.mean
        share = len(batch) / total
        # The sums of squares about each part's own mean, plus what the distance between the two means adds.
        between = difference**2 * share * (self.count / total)
        self.variance = self.variance * (self.count / total) + batch_variance * share + between
        self.mean = self.mean + difference * share
        self.count = total


class ObservationNormalizer:
    """Shift and scale observations to zero mean and unit variance, clipped to ±`LIMIT`; if not `enabled`, pass them.

    The statistics change only when `update` is called, so that a rollout and the learning from it see the same scale.
    """

    def __init__(self, size: int, enabled: bool) -> None:
        self.enabled = enabled
        self.moments = RunningMoments(size)
        self.refresh()

    def refresh(self) -> None:
        """Compute shift and scale from the statistics."""
        self.shift = self.moments.mean.astype(np.float32)
        self.scale = (1.0 / np.sqrt(self.moments.variance + EPSILON)).astype(np.float32)

    def apply(self, observations: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Write the normalized `observations` (..., d) to `out`, of the same shape."""
        if not self.enabled:
            out[...] = observations
            return
        np.subtract(observations, self.shift, out=out)
        np.multiply(out, self.scale, out=out)
        out.clip(-LIMIT, LIMIT, out=out)

    def inputs(self, observations: NDArray[np.float32], device: str) -> torch.Tensor:
        """Return observation vectors (k, d) as the networks see them, on their device."""
        inputs = torch.empty(observations.shape, dtype=torch.float32)  # whatever the process has as its default
        self.apply(observations, inputs.numpy())
        return inputs.to(device)

    def update(self, observations: NDArray[np.float32]) -> None:
        """Merge `observations` (k, d), not normalized, into the statistics."""
        if self.enabled:
            self.moments.update(observations)
            self.refresh()

    def parts(self) -> RunningMoments:
        """Return the statistics."""
        return self.moments


def discounted_sums(
    rewards: NDArray[np.floating],
    done: NDArray[np.bool_],
    start: NDArray[np.floating],
    gamma: float | NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return rewards so far, discounted backwards in time: G_t = r_t + γ G_{t-1}, begun anew in each episode.

    Of rewards (T, n), where episodes end with the steps that are `done` (T, n), and of G_{-1} at the start (n,), which
    the rollout before carried over. Returns G (T, n), and what to carry over into the next rollout (n,). The discount
    is one number, or (T, n) where steps take different times.
    """
    sums, running = np.empty(rewards.shape, rewards.dtype), start
    for step, reward in enumerate(rewards):
        sums[step] = (gamma[step] if isinstance(gamma, np.ndarray) else gamma) * running + reward
        running = sums[step] * ~done[step]
    return sums, running


class ReturnNormalizer:
    """Divide rewards by the running standard deviation of the discounted return; if not `enabled`, pass them.

    There is no shift: it would change the sign of rewards, and so what ending an episode early means. The discounted
    return is summed forward in time, as is customary since OpenAI's baselines: cheap, and of the true one's scale.
    """

    STATE = ("sums",)  # beside the moments, which judge a policy's returns and so are saved with it

    def __init__(self, num_envs: int, gamma: float, enabled: bool) -> None:
        self.gamma, self.enabled = gamma, enabled
        self.moments = RunningMoments(1)
        self.sums: NDArray[np.floating] = np.zeros(num_envs)

    @property
    def scale(self) -> np.float32:
        """The number that rewards are divided by."""
        return np.float32(np.sqrt(self.moments.variance[0] + EPSILON)) if self.enabled else np.float32(1.0)

    def apply(
        self, rewards: NDArray[np.float32], done: NDArray[np.bool_], mask: NDArray[np.bool_],
        gamma: float | NDArray[np.floating] | None = None,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Merge a rollout into the statistics and return its rewards, scaled and clipped; all are (T, n).

        Episodes end with the steps that are `done`; statistics are of the steps in `mask`. `gamma` is the discount of
        each step where they take different times.
        """
        if not self.enabled:
            return rewards
        sums, self.sums = discounted_sums(
            rewards.astype(np.float64), done, self.sums, self.gamma if gamma is None else gamma
        )
        self.moments.update(sums[mask].reshape(-1, 1))
        scaled = rewards / self.scale
        return np.clip(scaled, -LIMIT, LIMIT, out=scaled)
