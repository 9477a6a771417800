import dataclasses
import itertools

import pytest
import torch

from gantry.errors import GantryError
from gantry.optimizers.categorical import CategoricalCrossEntropy

METHOD = CategoricalCrossEntropy(population=6, elites=2, keep_elite_fraction=0.5, smoothing=0.5, uniform_fraction=0.4)


def even(horizon, choices):
    return torch.full((horizon, choices), 1.0 / choices)


def one_hot(*rows):
    return torch.nn.functional.one_hot(torch.tensor(rows), 3).float()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_categorical_samples_are_one_hot_with_given_probabilities():
    start = torch.tensor([[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]])
    method = CategoricalCrossEntropy(population=40_000)
    population = method.sample(method.begin(start), generator())
    assert bool(((population == 0) | (population == 1)).all())
    assert bool((population.sum(-1) == 1).all())
    torch.testing.assert_close(population.mean(0), start, atol=0.01, rtol=0)


def test_categorical_update_matches_hand_computed_shares():
    state = METHOD.begin(even(1, 3))
    population = one_hot([0], [1], [2], [0], [1], [2])
    values = torch.tensor([1.0, 0.0, 3.0, 2.0, 0.5, 4.0])  # the two best are both choice 1
    state = METHOD.update(state, population, values)
    torch.testing.assert_close(state.mean, torch.tensor([[1 / 6, 2 / 3, 1 / 6]]))
    assert state.value == 0.0
    torch.testing.assert_close(state.point, one_hot([1])[0])
    torch.testing.assert_close(state.kept_elites, one_hot([1]))


def test_categorical_ties_share_the_last_places_and_a_flat_generation_moves_nothing():
    start, population = METHOD.begin(even(1, 3)), one_hot([0], [1], [2], [0], [1], [2])
    values = torch.tensor([0.0, 1.0, 1.0, 3.0, 4.0, 5.0])  # choices 1 and 2 share one of two places
    for order in (slice(None), [5, 4, 3, 2, 1, 0]):
        state = METHOD.update(start, population[order], values[order])
        torch.testing.assert_close(state.mean, torch.tensor([[5 / 12, 7 / 24, 7 / 24]]))
    state = METHOD.update(start, population, torch.ones(6))
    assert torch.equal(state.mean, start.mean)
    assert torch.equal(state.std, start.std)


def test_categorical_advance_shifts_plan_and_mixes_uniform():
    state = METHOD.update(METHOD.begin(even(2, 3)), one_hot([0, 1], [0, 1]).repeat(3, 1, 1), torch.arange(6.0))
    later = METHOD.advance(state)
    moved = torch.tensor([1 / 6, 2 / 3, 1 / 6])
    torch.testing.assert_close(later.mean, torch.stack([0.6 * moved + 0.4 / 3, torch.full((3,), 1 / 3)]))
    torch.testing.assert_close(later.kept_elites[0], one_hot([1, 1])[0])
    assert later.value == float("inf")


def test_categorical_finds_enumerated_best_plan():
    horizon, choices = 4, 3
    random = generator(3)
    alone, together = (
        torch.randn(horizon, choices, generator=random),
        torch.randn((choices,) * horizon, generator=random),
    )
    table = 0.3 * together + sum(
        alone[step].view([-1 if axis == step else 1 for axis in range(4)]) for step in range(4)
    )
    best = min(itertools.product(range(choices), repeat=horizon), key=lambda plan: float(table[plan]))

    def costs(population):
        index = population.argmax(-1)
        return torch.stack([table[tuple(plan.tolist())] for plan in index])

    found = 0
    for seed in range(20):
        method, random = CategoricalCrossEntropy(population=40, elites=6, smoothing=0.5), generator(seed)
        state = method.begin(even(horizon, choices))
        for _ in range(6):
            population = method.sample(state, random)
            state = method.update(state, population, costs(population))
        found += tuple(state.point.argmax(-1).tolist()) == best
    assert found >= 18


def test_categorical_same_seed_same_population():
    state = METHOD.begin(even(5, 4))
    first, second = METHOD.sample(state, generator(1)), METHOD.sample(state, generator(1))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("start", "complaint"),
    [
        (torch.zeros(0, 3), "neither of them 0"),
        (torch.full((2, 3), 0.5), "probabilities"),
        (torch.tensor([[1.5, -0.5]]), "probabilities"),
    ],
)
def test_categorical_refuses_bad_start(start, complaint):
    with pytest.raises(GantryError, match=complaint):
        METHOD.begin(start)


def test_categorical_refuses_bad_settings():
    for change in ({"elites": 7}, {"smoothing": 0.0}, {"uniform_fraction": 1.5}):
        with pytest.raises(GantryError):
            dataclasses.replace(METHOD, **change)
