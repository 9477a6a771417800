"""Value iteration: the exact action values of a known finite Markov decision process, a reference for Q-learning.

Source: Bellman, "A Markovian decision process", 1957; the stopping rule is that of Puterman, "Markov decision
processes", 1994, section 6.3.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from gantry.errors import GantryError


@dataclasses.dataclass(frozen=True)
class FiniteMDP:
    """A finite Markov decision process with S states, A actions, and at most K outcomes per state and action."""

    next_state: NDArray[np.int64]
    """(S, A, K)."""
    reward: NDArray[np.float64]
    """(S, A, K)."""
    terminated: NDArray[np.bool_]
    """(S, A, K) whether the outcome ends the episode."""
    probability: NDArray[np.float64]
    """(S, A, K); sums to 1 over the outcomes."""


def deterministic_mdp(
    next_state: NDArray[np.int64], reward: NDArray[np.float64], terminal: NDArray[np.bool_]
) -> FiniteMDP:
    """Return the MDP with deterministic next states (S, A) and rewards (S, A), and terminal states (S,)."""
    probability = np.ones((*next_state.shape, 1))
    return FiniteMDP(next_state[..., None], reward[..., None], terminal[next_state][..., None], probability)


def value_iteration(mdp: FiniteMDP, gamma: float, tolerance: float = 1e-9) -> NDArray[np.float64]:
    """Return the optimal action values Q* (S, A), each within `tolerance`.

    Repeats Q(s, a) ← Σ p (r + γ max Q(s', ·)) until change · γ / (1 - γ), the bound on the remaining error, is at most
    the tolerance.

    Args:
        mdp: the mdp.
        gamma: discount, below 1.
        tolerance: largest absolute error.

    Raises:
        GantryError: γ is not in [0, 1), so that convergence is not guaranteed.
    """
    if not 0.0 <= gamma < 1.0:
        raise GantryError(f"gamma must be at least 0 and below 1, not {gamma}")
    discount = gamma * ~mdp.terminated
    values = np.zeros(mdp.next_state.shape[:2])
    while True:
        next_values = values.max(axis=1)[mdp.next_state]
        swept = (mdp.probability * (mdp.reward + discount * next_values)).sum(axis=2)
        change = float(np.abs(swept - values).max())
        values = swept
        if change * gamma <= tolerance * (1.0 - gamma):
            return values


def reachable_states(mdp: FiniteMDP, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return the mask (S,) of states that some action sequence reaches from `starts` (k,) before the episode ends."""
    reached = np.zeros(len(mdp.next_state), np.bool_)
    frontier = np.unique(starts)
    while len(frontier):
        reached[frontier] = True
        possible = (mdp.probability[frontier] > 0) & ~mdp.terminated[frontier]
        next_states = np.unique(mdp.next_state[frontier][possible])
        frontier = next_states[~reached[next_states]]
    return reached
