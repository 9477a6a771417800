"""Value iteration: the exact action values of a process whose transitions are known, against which tables are judged.

Source: Bellman, "A Markovian decision process", 1957; the stopping rule is that of Puterman, "Markov decision
processes", 1994, section 6.3.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gantry.agents.parts.validation import require


@dataclasses.dataclass(frozen=True)
class Process:
    """A finite Markov decision process: S states, A actions, and at most K outcomes of each."""

    following: NDArray[np.int64]
    """(S, A, K) the next state."""
    reward: NDArray[np.float64]
    """(S, A, K)."""
    terminated: NDArray[np.bool_]
    """(S, A, K) whether the episode is over with this outcome, so that nothing follows."""
    probability: NDArray[np.float64]
    """(S, A, K); they sum to 1 over outcomes."""


def deterministic(following: NDArray[np.int64], reward: NDArray[np.float64], terminal: NDArray[np.bool_]) -> Process:
    """The process without chance: next states (S, A), rewards (S, A), and which states end an episode (S,)."""
    one = np.ones((*following.shape, 1))
    return Process(following[..., None], reward[..., None], terminal[following][..., None], one)


def from_outcomes(outcomes: Mapping[int, Mapping[int, Any]]) -> Process:
    """The process that Gymnasium's toy-text environments keep as `P`.

    Args:
        outcomes: of each state and action, a list of (probability, next state, reward, terminated).
    """
    states, actions = len(outcomes), len(outcomes[0])
    most = max(len(listed) for of_state in outcomes.values() for listed in of_state.values())
    shape = (states, actions, most)
    process = Process(np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape, np.bool_), np.zeros(shape))
    for state, of_state in outcomes.items():
        for action, listed in of_state.items():
            for number, (probability, following, reward, terminated) in enumerate(listed):
                place = (state, action, number)
                process.probability[place], process.following[place] = probability, following
                process.reward[place], process.terminated[place] = reward, terminated
    return process


def value_iteration(process: Process, gamma: float, tolerance: float = 1e-9) -> NDArray[np.float64]:
    """Optimal action values Q* (S, A), each within `tolerance`.

    Repeats Q(s, a) ← Σ p (r + γ max Q(s', ·)) until the largest change is so small that what all later sweeps could
    add up to, change · γ / (1 - γ), is below the tolerance.

    Args:
        process: what happens.
        gamma: discount, below 1.
        tolerance: largest error.

    Raises:
        GantryError: γ is not in [0, 1), for which the sweeps may never end.
    """
    require(0.0 <= gamma < 1.0, "gamma", "at least 0 and below 1", gamma)
    goes_on = gamma * ~process.terminated
    values = np.zeros(process.following.shape[:2])
    while True:
        ahead = values.max(axis=1)[process.following]
        swept = (process.probability * (process.reward + goes_on * ahead)).sum(axis=2)
        change = float(np.abs(swept - values).max())
        values = swept
        if change * gamma <= tolerance * (1.0 - gamma):
            return values


def reachable(process: Process, starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which states (S,) some sequence of actions leads to from the starts (k,), while the episode goes on."""
    reached = np.zeros(len(process.following), np.bool_)
    frontier = np.unique(starts)
    while len(frontier):
        reached[frontier] = True
        possible = (process.probability[frontier] > 0) & ~process.terminated[frontier]
        following = np.unique(process.following[frontier][possible])
        frontier = following[~reached[following]]
    return reached
