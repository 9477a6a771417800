"""Gantry: batched MuJoCo worlds, learners and planners that train in seconds and film without a screen."""

__version__ = "0.1.0"
