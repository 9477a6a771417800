"""Seeds of environments: training, evaluation, test and tuning never share one.

Environment i of a batch is seeded with the batch's seed + i, so each (purpose, seed) owns a block of consecutive seeds.
Environments that others made get theirs below 2**31, since some of them seed generators that take no larger numbers.
"""

from typing import Literal, get_args

from gantry.envs.random_streams import ENVS_PER_SEED, FOREIGN_ENVS_PER_SEED, FOREIGN_SEEDS, foreign_block
from gantry.envs.registry import is_task
from gantry.errors import GantryError

Purpose = Literal["training", "evaluation", "test", "tuning"]

SEEDS = 2**40
"""Seeds of each purpose."""
MOST_REPETITIONS = 10_000
"""Trainings that differ in their seeds alone, of one command."""
FOREIGN_EPISODES_PER_SEED = 2**17
"""Episodes that a seed has room for in environments that others made, in all purposes but training."""


def environment_seed(purpose: Purpose, seed: int, num_envs: int = 1, env_id: str | None = None) -> int:
    """Return the seed of the first environment; [result, result + num_envs) belongs to (purpose, seed) alone.

    In environments that others made, seeds go up to 2**17 (training) or 2**12, and less far where there are more
    environments than a block holds.

    Args:
        purpose: what the environments are for.
        seed: which block.
        num_envs: number of environments.
        env_id: which environment; None for a task of Gantry's kind.

    Raises:
        GantryError: the seed or the number of environments is out of range.
    """
    if not 0 <= seed < SEEDS:
        raise GantryError(f"a seed must be from 0 to {SEEDS - 1}, not {seed}")
    if not 1 <= num_envs <= ENVS_PER_SEED:
        raise GantryError(f"the number of environments must be from 1 to {ENVS_PER_SEED}, not {num_envs}")
    number = get_args(Purpose).index(purpose)
    if env_id is None or is_task(env_id):
        return (number * SEEDS + seed) * ENVS_PER_SEED
    size = FOREIGN_ENVS_PER_SEED if purpose == "training" else FOREIGN_EPISODES_PER_SEED
    return number * FOREIGN_SEEDS + foreign_block(seed, num_envs, size)
