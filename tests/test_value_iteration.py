import gymnasium
import numpy as np
import pytest

from gantry.errors import GantryError
from gantry.optimal_control.value_iteration import Process, deterministic, from_outcomes, reachable, value_iteration


def chain():
    """Two states and an end: action 0 stays at a price, action 1 goes on; the end pays 10."""
    following = np.array([[0, 1], [1, 2], [2, 2]])
    reward = np.array([[-1.0, 0.0], [-1.0, 10.0], [0.0, 0.0]])
    return deterministic(following, reward, np.array([False, False, True]))


def test_values_of_a_chain_by_hand():
    values = value_iteration(chain(), 0.9)
    # From state 1: 10; from state 0: 0.9 · 10; staying costs 1 and comes a step later.
    np.testing.assert_allclose(values[:2], [[-1 + 0.9 * 9, 9.0], [-1 + 0.9 * 10, 10.0]], atol=1e-9)


def test_values_of_random_processes_solve_bellmans_equation_as_linear_equations_of_the_best_policy():
    rng = np.random.default_rng(0)
    for _ in range(5):
        probability = rng.dirichlet(np.ones(3), (6, 2))
        process = Process(
            rng.integers(6, size=(6, 2, 3)), rng.normal(size=(6, 2, 3)), rng.random((6, 2, 3)) < 0.2, probability
        )
        values = value_iteration(process, 0.9, 1e-10)
        best = values.argmax(axis=1)
        transition = np.zeros((6, 6))
        reward = np.zeros(6)
        for state in range(6):
            for outcome in range(3):
                place = (state, best[state], outcome)
                reward[state] += process.probability[place] * process.reward[place]
                if not process.terminated[place]:
                    transition[state, process.following[place]] += process.probability[place]
        of_policy = np.linalg.solve(np.eye(6) - 0.9 * transition, reward)
        np.testing.assert_allclose(values.max(axis=1), of_policy, atol=1e-9)


def test_the_error_is_within_the_tolerance():
    exact = value_iteration(chain(), 0.99, 1e-12)
    for tolerance in (1.0, 1e-2, 1e-4):
        assert np.abs(value_iteration(chain(), 0.99, tolerance) - exact).max() <= tolerance


def test_frozen_lake_is_walked_around_its_holes():
    outcomes = gymnasium.make("FrozenLake-v1", is_slippery=False).unwrapped.P
    process = from_outcomes(outcomes)
    values = value_iteration(process, 0.9)
    assert values[0].max() == pytest.approx(0.9**5)  # the sixth step is the one that arrives
    assert np.flatnonzero(~reachable(process, np.array([0]))).tolist() == [5, 7, 11, 12, 15]  # holes and goal
    assert value_iteration(from_outcomes(gymnasium.make("FrozenLake-v1").unwrapped.P), 1 - 1e-5)[0].max() == (
        pytest.approx(0.8235, abs=1e-3)  # 14/17 of the walks arrive at last, on slippery ice
    )


def test_only_what_can_happen_is_reachable():
    process = chain()
    assert reachable(process, np.array([1])).tolist() == [False, True, False]
    assert reachable(process, np.array([0])).tolist() == [True, True, False]


@pytest.mark.parametrize("gamma", [1.0, -0.1, 1.5])
def test_a_discount_that_ends_nothing_is_refused(gamma):
    with pytest.raises(GantryError, match="gamma"):
        value_iteration(chain(), gamma)
