"""From rewards to the figure that is reported."""

from typing import TypeVar

import numpy as np

from gantry.envs.registry import ENVIRONMENTS

Numbers = TypeVar("Numbers", float, np.ndarray)


def score(environment: str, episode_return: Numbers, length: Numbers) -> Numbers:
    """Return the score of episodes: 1000 × mean reward for Gantry's own tasks, the return for any other's.

    On the cart-pole this is dm_control's 0-1000 scale.
    """
    return 1000.0 * episode_return / length if environment in ENVIRONMENTS else episode_return
