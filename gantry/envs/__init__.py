"""Simulated worlds: tasks, the batched simulator over `mujoco.batch`, and their Gymnasium faces."""

from gantry.envs.rendering.gl_guard import drop_unusable_mujoco_gl

drop_unusable_mujoco_gl()  # before MuJoCo is first imported, which an unusable setting would make fail
