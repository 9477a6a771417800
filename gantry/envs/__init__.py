"""Simulated worlds: tasks, the batched simulator over `mujoco.batch`, and their Gymnasium faces."""
