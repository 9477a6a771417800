"""Rollouts: what the present policy did in many environments at once, stored to be learned from.

PyTorch allocates what networks see, since its memory is aligned the same in every run: matrix libraries may round
differently by alignment, and two runs of one seed must agree to the last bit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.parts.policy import Policy
from gantry.agents.parts.vector_stepper import Transition, VectorStepper

CHUNK = 4096
"""Observations that the critic values at once after a rollout: enough to be quick, few enough to stay in the cache."""


class RolloutCollector:
    """Lets a policy act for up to T steps at a time in n environments, and stores what happened.

    Args:
        stepper, policy: step the environments, and act.
        steps: T.
        generator: of the actions' randomness.

    Attributes:
        observations: (T + 1, n, d) float32 as the environment gave them; step T is where the next rollout starts.
        inputs: (T + 1, n, d) float32, the same as the networks see them (normalized).
        outputs: (T, n, K) float32, what the policy's network returned.
        samples: (T, n, A) float32 or (T, n) int64, what the policy's distribution sampled.
        rewards, terminated, done, mask: (T, n) as `Transition` has them.
    """

    def __init__(self, stepper: VectorStepper, policy: Policy, steps: int, generator: torch.Generator) -> None:
        self.stepper, self.policy, self.steps, self._generator = stepper, policy, steps, generator
        shape, size, outputs = (steps, stepper.num_envs), policy.observations.size, policy.distribution.output_size
        self.inputs = torch.zeros(steps + 1, stepper.num_envs, size)
        self._inputs_view = self.inputs.numpy()
        self.outputs = torch.zeros(*shape, outputs)
        self.samples = torch.zeros_like(self.outputs)
        if not policy.actions.continuous:
            self.samples = torch.zeros(shape, dtype=torch.int64)
        self.observations = np.zeros(self.inputs.shape, np.float32)
        self.rewards = np.zeros(shape, np.float32)
        self.terminated, self.done, self.mask = np.zeros((3, *shape), np.bool_)

    def collect(self, budget: int) -> "Rollout":
        """Take T vector steps, or as many as the budget of environment steps allows; the next call overwrites them."""
        stepper, last = self.stepper, self.stepper.steps + budget
        noise = self.policy.distribution.noise((self.steps, stepper.num_envs), self._generator).to(self.policy.device)
        finals, length = [], 0
        with torch.no_grad():
            while length < self.steps and stepper.steps < last:
                transition = self.step(length, noise[length], last - stepper.steps)
                if len(transition.final_envs):
                    finals.append((length, transition.final_envs, transition.final_observations))
                length += 1
        return Rollout(self, length, finals)

    def step(self, time: int, noise: torch.Tensor, budget: int, only: NDArray[np.bool_] | None = None) -> Transition:
        """Take one vector step with the policy and store it.

        Args:
            time: index of the step, 0 to T - 1.
            noise: (n, K) for the policy's distribution.
            budget: environment steps that may still be counted.
            only: (n,) environments whose step counts; None: all.
        """
        policy = self.policy
        if time == 0:
            self._observe(0)
        output = policy.network(self.inputs[time].to(policy.device))
        self.outputs[time] = output
        self.samples[time] = policy.distribution.sample(output, noise)
        actions = policy.actions.to_environment(policy.distribution.action(self.samples[time]).numpy())
        transition = self.stepper.step(actions, budget, only)
        self.rewards[time], self.terminated[time] = transition.rewards, transition.terminated
        self.done[time], self.mask[time] = transition.done, transition.mask
        self._observe(time + 1)
        return transition

    def _observe(self, time: int) -> None:
        self.observations[time] = self.stepper.observation
        self.policy.normalizer.apply(self.stepper.observation, self._inputs_view[time])


@dataclass
class Batch:
    """The transitions of a rollout that count, flattened to N."""

    inputs: torch.Tensor  # (N, d)
    samples: torch.Tensor  # (N, A) or (N,)
    log_prob: torch.Tensor  # (N,) under the policy that acted
    advantage: torch.Tensor  # (N,)
    target: torch.Tensor  # (N,) λ-return
    value: torch.Tensor  # (N,) at the time of the rollout


class Rollout:
    """The first T steps of n environments that a collector holds.

    Attributes:
        rewards, terminated, done, mask: (T, n) as `Transition` has them.
        ends: (T, n) whether an advantage stops here: an episode ended, or the next step does not count.
        observations: (N, d) those of the steps that count, not normalized.
        finals: per step at which episodes ended: the step, the environments (k,), and the last observations (k, d).
    """

    def __init__(
        self, steps: RolloutCollector, length: int, finals: list[tuple[int, NDArray[np.int64], NDArray[np.float32]]]
    ) -> None:
        self.steps, self.length, self.policy, self.finals = steps, length, steps.policy, finals
        self.rewards, self.terminated = steps.rewards[:length], steps.terminated[:length]
        self.done, self.mask = steps.done[:length], steps.mask[:length]
        self.ends = self.done.copy()
        self.ends[:-1] |= ~self.mask[1:]
        self.observations = steps.observations[:length][self.mask]

    def values(self, critic: Callable[[torch.Tensor], torch.Tensor]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return V(s_t) and V(s_{t+1}), (T, n) each; where an episode ended, s_{t+1} is its own last observation."""

        def value(inputs: torch.Tensor) -> NDArray[np.float32]:
            parts = [critic(chunk.to(self.policy.device)) for chunk in torch.split(inputs, CHUNK)]
            return torch.cat(parts).reshape(-1).cpu().numpy()

        inputs = self.steps.inputs[: self.length + 1]
        with torch.no_grad():
            values = value(inputs.flatten(0, 1)).reshape(self.length + 1, -1)
            next_values = values[1:].copy()
            if self.finals:
                last_observations = np.concatenate([observations for *_, observations in self.finals])
                last = value(self.policy.normalizer.inputs(last_observations, self.policy.device))
                steps = np.concatenate([np.full(len(envs), step) for step, envs, _ in self.finals])
                next_values[steps, np.concatenate([envs for _, envs, _ in self.finals])] = last
        return values[:-1], next_values

    def batch(self, values: NDArray[np.float32], advantages: NDArray[np.float32]) -> Batch:
        """Return the transitions that count, with values V(s_t) and advantages (T, n), on the policy's device."""
        steps, device = self.steps, self.policy.device
        inputs, outputs, samples = (
            part[: self.length].flatten(0, 1) for part in (steps.inputs, steps.outputs, steps.samples)
        )
        with torch.no_grad():
            log_prob = self.policy.distribution.log_prob(outputs.to(device), samples.to(device)).cpu()
        advantage, value = (torch.from_numpy(array.reshape(-1)) for array in (advantages, values))
        columns = [inputs, samples, log_prob, advantage, value + advantage, value]
        if not self.mask.all():
            kept = torch.from_numpy(np.flatnonzero(self.mask))
            columns = [column.index_select(0, kept) for column in columns]
        return Batch(*(column.to(device) for column in columns))


def standardized(values: torch.Tensor) -> torch.Tensor:
    """Return values (B,) shifted and scaled to mean 0 and standard deviation 1; a single value stays as it is."""
    if len(values) < 2:
        return values
    std, mean = torch.std_mean(values)
    return (values - mean) / (std + 1e-8)


def minibatches(columns: Sequence[torch.Tensor], order: torch.Tensor, parts: int) -> Iterator[tuple[torch.Tensor, ...]]:
    """Split columns (N, …), in the order of a permutation (N,), into `parts` minibatches of nearly equal size."""
    shuffled = [torch.tensor_split(column.index_select(0, order), parts) for column in columns]
    return zip(*shuffled, strict=True)
