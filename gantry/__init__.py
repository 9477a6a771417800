"""Gantry: batched MuJoCo worlds, learners and planners that train in seconds and film without a screen.

Importing the package registers its environments with Gymnasium; so does Gymnasium's own plugin entry point, so that
`gymnasium.make("gantry/CartPoleSwingUp-v0")` works with no import of ours. Neither imports MuJoCo or PyTorch.
"""

from gantry.catalogue import register_environments
from gantry.errors import GantryError

__version__ = "0.1.0"
__all__ = ["GantryError", "__version__", "register_environments"]

register_environments()
