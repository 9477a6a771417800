"""Workflows of a run: training, evaluating, and the folder in which it is kept."""
