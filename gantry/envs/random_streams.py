"""Counter-based random streams: what environment i samples depends on its seed and its episode alone.

A stream is SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators"), whose state is a
plain counter: sample k is a hash of (start + k × golden ratio). The start is itself a hash of (seed, episode), so all
environments sample at once with array operations, in any order, and only seed and episode need to be saved.
"""

import numpy as np

from gantry.errors import GantryError, shown

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The increment of SplitMix64: 2⁶⁴ divided by the golden ratio, made odd."""
ENVS_PER_SEED = 2**20
"""Environments that one seed of a run has room for, in Gantry's simulator."""
FOREIGN_ENVS_PER_SEED, FOREIGN_SEEDS = 2**12, 2**29
"""The same in environments that others made, and how many seeds these have in all: some take no large ones."""


def mix(x: np.ndarray) -> np.ndarray:
    """Return SplitMix64's 64-bit finalizer of `x` (any shape, uint64): a bijection with full avalanche."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def foreign_block(seed: int, num_envs: int, size: int = FOREIGN_ENVS_PER_SEED) -> int:
    """Return the first of a seed's environment seeds, below FOREIGN_SEEDS, in environments that others made.

    Blocks hold `size` environments, or as many times twice that as are needed; they never overlap.

    Raises:
        GantryError: the seed is beyond the last block.
    """
    while size < num_envs:
        size *= 2
    if not 0 <= seed < FOREIGN_SEEDS // size:
        last = FOREIGN_SEEDS // size - 1
        raise GantryError(
            f"in environments that others made, a seed here must be from 0 to {last:,}, not {shown(seed)}"
        )
    return seed * size


class RandomStreams:
    """One independent random stream per environment.

    Args:
        seeds: (n,) uint64, one seed per environment.
        counters: further (n,) integer arrays that tell apart the streams of one seed, such as the episode number.
    """

    def __init__(self, seeds: np.ndarray, *counters: np.ndarray) -> None:
        start = mix(seeds + GOLDEN)
        for counter in counters:
            # Sample number counter + 1 of the stream so far: unlike a symmetric mixture of the two, it tells seed 2 in
            # episode 3 from seed 3 in episode 2.
            start = mix(start + (counter.astype(np.uint64) + np.uint64(1)) * GOLDEN)
        self._start = start
        self._drawn = 0

    def bits(self, count: int) -> np.ndarray:
        """Sample (n, count) uniform 64-bit integers."""
        steps = np.arange(self._drawn + 1, self._drawn + count + 1, dtype=np.uint64) * GOLDEN
        self._drawn += count
        return mix(self._start[:, None] + steps)

    def uniform(self, low: float, high: float, count: int) -> np.ndarray:
        """Sample (n, count) float64, uniform in [low, high)."""
        unit = (self.bits(count) >> np.uint64(11)) * 2.0**-53
        return low + (high - low) * unit

    def normal(self, count: int) -> np.ndarray:
        """Sample (n, count) standard normals (Box & Muller 1958)."""
        pairs = (count + 1) // 2
        # 1 - u lies in (0, 1], so the logarithm is finite.
        radius = np.sqrt(-2.0 * np.log(1.0 - self.uniform(0.0, 1.0, pairs)))
        angle = self.uniform(0.0, 2.0 * np.pi, pairs)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)[:, :count]

    def integers(self, high: int, count: int) -> np.ndarray:
        """Sample (n, count) int64, uniform in [0, high)."""
        return (self.uniform(0.0, 1.0, count) * high).astype(np.int64)
