import gymnasium
import numpy as np
import pytest
from toy_text import toy_text_mdp

from gantry.errors import GantryError
from gantry.optimal_control.value_iteration import FiniteMDP, deterministic_mdp, reachable_states, value_iteration


def chain():
    """Two states and a terminal one: action 0 stays for a reward of -1, action 1 moves on; the end pays 10."""
    next_state = np.array([[0, 1], [1, 2], [2, 2]])
    reward = np.array([[-1.0, 0.0], [-1.0, 10.0], [0.0, 0.0]])
    return deterministic_mdp(next_state, reward, np.array([False, False, True]))


def test_value_iteration_of_chain_by_hand():
    values = value_iteration(chain(), 0.9)
    # From state 1: 10; from state 0: 0.9 · 10; staying costs 1 and delays the rest by a step.
    np.testing.assert_allclose(values[:2], [[-1 + 0.9 * 9, 9.0], [-1 + 0.9 * 10, 10.0]], atol=1e-9)


def test_value_iteration_matches_linear_bellman_equation_of_greedy_policy():
    rng = np.random.default_rng(0)
    for _ in range(5):
        probability = rng.dirichlet(np.ones(3), (6, 2))
        mdp = FiniteMDP(
            rng.integers(6, size=(6, 2, 3)), rng.normal(size=(6, 2, 3)), rng.random((6, 2, 3)) < 0.2, probability
        )
        values = value_iteration(mdp, 0.9, 1e-10)
        best = values.argmax(axis=1)
        transition = np.zeros((6, 6))
        reward = np.zeros(6)
        for state in range(6):
            for outcome in range(3):
                place = (state, best[state], outcome)
                reward[state] += mdp.probability[place] * mdp.reward[place]
                if not mdp.terminated[place]:
                    transition[state, mdp.next_state[place]] += mdp.probability[place]
        of_policy = np.linalg.solve(np.eye(6) - 0.9 * transition, reward)
        np.testing.assert_allclose(values.max(axis=1), of_policy, atol=1e-9)


def test_value_iteration_error_is_within_tolerance():
    exact = value_iteration(chain(), 0.99, 1e-12)
    for tolerance in (1.0, 1e-2, 1e-4):
        assert np.abs(value_iteration(chain(), 0.99, tolerance) - exact).max() <= tolerance


def test_value_iteration_of_frozen_lake():
    mdp = toy_text_mdp(gymnasium.make("FrozenLake-v1", is_slippery=False))
    values = value_iteration(mdp, 0.9)
    assert values[0].max() == pytest.approx(0.9**5)  # the sixth step reaches the goal
    assert np.flatnonzero(~reachable_states(mdp, np.array([0]))).tolist() == [5, 7, 11, 12, 15]  # holes and goal
    assert value_iteration(toy_text_mdp(gymnasium.make("FrozenLake-v1")), 1 - 1e-5)[0].max() == (
        pytest.approx(0.8235, abs=1e-3)  # on slippery ice 14/17 of the episodes reach the goal
    )


def test_reachable_states_of_chain_states():
    mdp = chain()
    assert reachable_states(mdp, np.array([1])).tolist() == [False, True, False]
    assert reachable_states(mdp, np.array([0])).tolist() == [True, True, False]


@pytest.mark.parametrize("gamma", [1.0, -0.1, 1.5])
def test_discount_outside_range_is_refused(gamma):
    with pytest.raises(GantryError, match="gamma"):
        value_iteration(chain(), gamma)
