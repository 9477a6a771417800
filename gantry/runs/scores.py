"""From rewards to the number that is reported as an episode's score."""

from typing import TypeVar

import numpy as np

from gantry.runs.environments import find_task

Numbers = TypeVar("Numbers", float, np.ndarray)


def score(env_id: str, episode_return: Numbers, length: Numbers) -> Numbers:
    """Return the score of episodes: 1000 × mean reward for tasks of Gantry's kind, the return for any other.

    Tasks of Gantry's kind are those registered with `register_task`, whose rewards lie in [0, 1]; on the cart-pole this
    is dm_control's scale from 0 to 1000.
    """
    return 1000.0 * episode_return / length if find_task(env_id) is not None else episode_return
