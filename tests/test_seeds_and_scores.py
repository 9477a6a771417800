"""Seeds of different purposes never meet; scores are what they say."""

import numpy as np
import pytest

from gantry.errors import GantryError
from gantry.runs.scores import score
from gantry.runs.seeds import ENVS_PER_SEED, SEEDS, environment_seed


def test_environment_seeds_of_purposes_are_disjoint():
    blocks = [
        environment_seed(purpose, seed)
        for purpose in ("training", "evaluation", "test", "tuning")
        for seed in (0, 1, 2, SEEDS // 2, SEEDS - 1)
    ]
    gaps = np.diff(sorted(blocks))
    assert len(set(blocks)) == len(blocks)
    assert gaps.min() >= ENVS_PER_SEED  # each block has room for all its environments before the next begins


@pytest.mark.parametrize("seed", [-1, SEEDS])
def test_seed_out_of_range_is_refused(seed):
    with pytest.raises(GantryError, match="seed"):
        environment_seed("training", seed)


def test_more_environments_than_a_seed_holds_are_refused():
    with pytest.raises(GantryError, match="environments"):
        environment_seed("training", 0, ENVS_PER_SEED + 1)


def test_score_is_1000_times_mean_reward_for_tasks_and_return_for_others():
    assert score("gantry/CartPoleSwingUp-v0", 250.0, 500.0) == 500.0
    assert score("Pendulum-v1", -200.0, 200.0) == -200.0
