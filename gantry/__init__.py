"""Gantry: batched MuJoCo worlds, learners and planners that train in seconds and film without a screen.

Importing the package registers its environments with Gymnasium, and imports neither MuJoCo nor PyTorch. Gymnasium loads
no plugins since its version 1.0; `gymnasium.make("gantry:gantry/CartPoleSwingUp-v0")` lets it do the import.
"""

from gantry.envs.registry import register_environments
from gantry.envs.rendering.gl_guard import drop_unusable_mujoco_gl
from gantry.errors import GantryError

__version__ = "0.1.0"
__all__ = ["GantryError", "__version__", "register_environments"]

drop_unusable_mujoco_gl()  # before anything imports MuJoCo, which an unusable setting would make fail
register_environments()
