"""Generalized advantage estimation (GAE): how much better what followed an action was than expected.

Source: Schulman, Moritz, Levine, Jordan and Abbeel, "High-dimensional continuous control using generalized advantage
estimation", 2016 (arXiv:1506.02438), equations 11, 12 and 16.
"""

import numpy as np
from numpy.typing import NDArray


def gae(
    rewards: NDArray[np.floating], values: NDArray[np.floating], next_values: NDArray[np.floating],
    terminated: NDArray[np.bool_], done: NDArray[np.bool_], *, gamma: float | NDArray[np.floating], lam: float,
) -> NDArray[np.floating]:  # fmt: skip
    """Return generalized advantage estimates, (T, n); plus `values` they are the λ-returns that a critic is fitted to.

    A_t = δ_t + γ λ (1 - done_t) A_{t+1}, with δ_t = r_t + γ (1 - terminated_t) V(s_{t+1}) - V(s_t).

    A termination ends the return: nothing is bootstrapped. A truncation (time limit) ends only our view of it:
    V of the observation that the step led to, before any reset, stands in for the rest.

    Args:
        rewards: (T, n) r_t, of n environments over T steps.
        values: (T, n) V(s_t).
        next_values: (T, n) V(s_{t+1}); where `done`, of the episode's last observation, not of the next one's first.
        terminated: (T, n) the episode ended in a terminal state.
        done: (T, n) the episode ended, terminated or truncated.
        gamma: discount γ per step; or (T, n) where steps take different times.
        lam: λ, from 0 (one-step temporal difference) to 1 (Monte Carlo return less baseline).
    """
    advantages = rewards + gamma * next_values * ~terminated - values
    carried = (gamma * lam) * ~done
    for step in range(len(rewards) - 2, -1, -1):
        advantages[step] += carried[step] * advantages[step + 1]
    return advantages
