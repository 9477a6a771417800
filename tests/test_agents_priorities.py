import numpy as np
import pytest
import torch

from gantry.agents.parts.priorities import Priorities, SumTree


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("capacity", [1, 2, 3, 13, 64, 100])
def test_sum_tree_matches_cumulative_sum(capacity):
    random = np.random.default_rng(capacity)
    weights = random.uniform(0.1, 3.0, capacity) * (random.random(capacity) < 0.8)
    weights[0] = 1.0
    tree = SumTree(capacity)
    tree.set(np.arange(capacity), weights)
    changed = random.integers(0, capacity, 5)
    weights[changed] = 0.5
    tree.set(changed, np.full(5, 0.5))
    assert tree.total == pytest.approx(weights.sum())
    np.testing.assert_array_equal(tree.get(np.arange(capacity)), weights)
    positions = random.uniform(0.0, tree.total, 500)
    np.testing.assert_array_equal(tree.find(positions), np.searchsorted(np.cumsum(weights), positions, side="right"))


def test_sum_tree_never_finds_leaves_without_weight():
    tree = SumTree(6)
    tree.set(np.arange(6), np.array([0.0, 0.1, 0.2, 0.7, 0.0, 0.0]))
    assert set(tree.find(np.array([0.0, tree.total, np.nextafter(tree.total, 2.0)]))) == {1, 3}


def filled(rows=8, alpha=0.6):
    priorities = Priorities(rows, alpha, epsilon=0.0)
    priorities.added(np.arange(rows), np.ones(rows, bool))
    return priorities


def test_sampling_is_proportional_to_a_power_of_the_error():
    priorities = filled(4, alpha=0.5)
    errors = torch.tensor([1.0, -4.0, 9.0, 0.25])
    priorities.update(torch.arange(4), errors)
    probability = errors.abs().sqrt().numpy()
    probability /= probability.sum()
    rows, weights = priorities.sample(100_000, 0.4, generator())
    np.testing.assert_allclose(np.bincount(rows.numpy(), minlength=4) / 100_000, probability, atol=2e-5)  # stratified
    expected = (4 * probability) ** -0.4
    np.testing.assert_allclose(weights.numpy(), (expected / expected.max())[rows.numpy()], rtol=1e-5)


def test_full_importance_weights_correct_the_bias():
    priorities = filled(8)
    priorities.update(torch.arange(8), torch.linspace(0.1, 5.0, 8))
    rows, weights = priorities.sample(200_000, 1.0, generator())
    share = np.bincount(rows.numpy(), weights.numpy(), 8)
    np.testing.assert_allclose(share / share.sum(), 1 / 8, rtol=1e-3)


def test_new_transitions_get_the_highest_priority_and_masked_ones_none():
    priorities = filled(4, alpha=1.0)
    priorities.update(torch.tensor([1]), torch.tensor([7.0]))
    priorities.added(np.array([2, 3]), np.array([True, False]))
    rows, _ = priorities.sample(16_000, 0.5, generator())
    np.testing.assert_allclose(np.bincount(rows.numpy(), minlength=4) / 16_000, np.array([1, 7, 7, 0]) / 15, atol=1e-3)


def test_rollback_is_exact_and_a_restored_state_samples_the_same():
    priorities, untouched = filled(), filled()
    for one in (priorities, untouched):
        one.update(torch.arange(8), torch.linspace(1.0, 2.0, 8))
    priorities.mark()
    for _ in range(2):
        priorities.update(torch.tensor([3, 3, 5]), torch.tensor([9.0, 8.0, 7.0]))
        priorities.added(np.array([3, 4]), np.array([True, False]))
        priorities.rollback()
    restored = Priorities(8, epsilon=0.0)
    restored.load_state(untouched.state())
    for one in (priorities, restored):
        one.added(np.array([0]), np.array([True]))  # shows the highest priority
    untouched.added(np.array([0]), np.array([True]))
    expected = untouched.sample(1000, 0.5, generator())
    for one in (priorities, restored):
        for found, wanted in zip(one.sample(1000, 0.5, generator()), expected, strict=True):
            assert torch.equal(found, wanted)
