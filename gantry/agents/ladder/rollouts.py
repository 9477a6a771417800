"""Preallocated storage of a rollout: T steps of n environments, seen by NumPy and PyTorch alike without copies."""

import numpy as np
import torch


class RolloutBuffer:
    """Arrays of a rollout, (T, n, …), written step by step and read once.

    Everything is allocated by PyTorch, whose memory is aligned the same in every run: matrix libraries may round
    differently by alignment, and two runs of one seed must agree to the last bit.

    Attributes:
        observations: (T + 1, n, d) float32 as the environment gave them; row T is where the next rollout starts.
        inputs: (T + 1, n, d) float32, the same as the networks see them (normalized).
        outputs: (T, n, K) float32, what the actor network returned.
        actions: (T, n, A) float32 or (T, n) int64, what the policy's head drew.
        rewards, terminated, done, valid: (T, n); `valid` is false where a row is no transition to learn from.
    """

    ARRAYS = ("inputs", "outputs", "actions", "observations", "rewards", "terminated", "done", "valid")

    def __init__(self, steps: int, num_envs: int, observation_size: int, output_size: int, continuous: bool) -> None:
        self.inputs = torch.zeros(steps + 1, num_envs, observation_size)
        self.outputs = torch.zeros(steps, num_envs, output_size)
        self.actions = (
            torch.zeros(steps, num_envs, output_size) if continuous else torch.zeros(steps, num_envs, dtype=torch.int64)
        )
        self.observations = np.zeros((steps + 1, num_envs, observation_size), np.float32)
        self.rewards = np.zeros((steps, num_envs), np.float32)
        self.terminated = np.zeros((steps, num_envs), np.bool_)
        self.done = np.zeros((steps, num_envs), np.bool_)
        self.valid = np.ones((steps, num_envs), np.bool_)
        self.inputs_view = self.inputs.numpy()
        """A NumPy view of the tensor of the same name."""

    def doubled(self) -> "RolloutBuffer":
        """A buffer for twice the steps that begins with what is in this one."""
        steps, num_envs = self.rewards.shape
        continuous = self.actions.is_floating_point()
        longer = RolloutBuffer(2 * steps, num_envs, self.inputs.shape[2], self.outputs.shape[2], continuous)
        for name in self.ARRAYS:
            begun = getattr(self, name)
            getattr(longer, name)[: len(begun)] = begun
        return longer
