"""Seeds of environments: training, evaluation and test never share one.

Environment i of a batch is seeded with the batch's seed + i, so each (purpose, seed) owns a block of consecutive seeds.
"""

from typing import Literal, get_args

from gantry.errors import GantryError

Purpose = Literal["training", "evaluation", "test"]

ENVS_PER_SEED = 2**20
"""Environments that one seed has room for."""
SEEDS = 2**40
"""Seeds of each purpose."""


def environment_seed(purpose: Purpose, seed: int, num_envs: int = 1) -> int:
    """Return the seed of the first environment; [result, result + num_envs) belongs to (purpose, seed) alone.

    Raises:
        GantryError: the seed or the number of environments is out of range.
    """
    if not 0 <= seed < SEEDS:
        raise GantryError(f"a seed must be from 0 to {SEEDS - 1}, not {seed}")
    if not 1 <= num_envs <= ENVS_PER_SEED:
        raise GantryError(f"the number of environments must be from 1 to {ENVS_PER_SEED}, not {num_envs}")
    return (get_args(Purpose).index(purpose) * SEEDS + seed) * ENVS_PER_SEED
