"""Rollouts: what the present policy did in many environments at once, stored to be learned from.

PyTorch allocates what networks see, since its memory is aligned the same in every run: matrix libraries may round
differently by alignment, and two runs of one seed must agree to the last bit.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.parts.advantages import gae
from gantry.agents.parts.normalization import ReturnNormalizer
from gantry.agents.parts.policy import Policy
from gantry.agents.parts.vector_stepper import Transition, VectorStepper
from gantry.machine.memory import require_memory

CHUNK = 4096
"""Observations that the critic values at once after a rollout: enough to be quick, few enough to stay in the cache."""


@dataclass
class Batch:
    """The transitions of a rollout that count, flattened to N."""

    inputs: torch.Tensor  # (N, d)
    samples: torch.Tensor  # (N, A) or (N,)
    log_prob: torch.Tensor  # (N,) under the policy that acted
    advantage: torch.Tensor  # (N,)
    target: torch.Tensor  # (N,) λ-return
    value: torch.Tensor  # (N,) at the time of the rollout
    critic_inputs: torch.Tensor | None = None  # (N, critic_size); None: the same as the actor's


class Rollout:
    """Up to T steps of n environments in which a policy acts, and what happened; each collection replaces the last.

    Args:
        stepper, policy: step the environments, and act.
        steps: T.
        generator: of the actions' randomness.

    Attributes:
        length: steps that it holds, at most T.
        observations: (T + 1, n, d) float32 as the environment gave them; the last one is where the next rollout starts.
        inputs: (T + 1, n, d) float32, the same as the networks see them (normalized).
        outputs: (T, n, K) float32, what the policy's network returned.
        samples: (T, n, A) float32, or (T, n) or (T, n, m) int64, what the policy's distribution sampled.
        rewards, terminated, done, mask: (T, n) as `Transition` has them.
        elapsed: (T, n) likewise, or None where every step takes the time 1.
        critic_size: numbers that a critic sees: those that the actor sees, d, but in a `TeamRollout`.
    """

    def __init__(self, stepper: VectorStepper, policy: Policy, steps: int, generator: torch.Generator) -> None:
        self.stepper, self.policy, self.steps, self._generator = stepper, policy, steps, generator
        shape, size, outputs = (steps, stepper.num_envs), policy.observations.size, policy.distribution.output_size
        numbers = (steps + 1) * stepper.num_envs * (2 * size + 2 * outputs + 2)
        require_memory(numbers, "rollout_steps", f"a rollout of {stepper.num_envs} environments")
        self.inputs = torch.zeros(steps + 1, stepper.num_envs, size)
        self._inputs_view = self.inputs.numpy()
        self.outputs = torch.zeros(*shape, outputs)
        self.samples = policy.distribution.mode(self.outputs).clone()  # zeros of their shape and type
        self.observations = np.zeros(self.inputs.shape, np.float32)
        self.rewards = np.zeros(shape, np.float32)
        self.terminated, self.done, self.mask = np.zeros((3, *shape), np.bool_)
        self.elapsed: NDArray[np.int64] | None = None
        self.critic_size = size
        self.length, self.finals = 0, list[tuple[int, Transition]]()  # the latter of the steps where episodes ended

    def collect(self, budget: int) -> None:
        """Take T vector steps, or as many as the budget of environment steps allows."""
        stepper, last = self.stepper, self.stepper.steps + budget
        noise = self.policy.distribution.noise((self.steps, stepper.num_envs), self._generator).to(self.policy.device)
        self.begin()
        while self.length < self.steps and stepper.steps < last:
            self.step(noise[self.length], last - stepper.steps)

    def begin(self) -> None:
        """Forget all steps and observe where the first one starts."""
        self.length, self.finals = 0, []
        self._observe()

    def step(self, noise: torch.Tensor, budget: int, only: NDArray[np.bool_] | None = None) -> Transition:
        """Take one vector step with the policy and store it.

        Args:
            noise: (n, K) for the policy's distribution.
            budget: environment steps that may still be counted.
            only: (n,) environments whose step counts; None: all.
        """
        policy, time = self.policy, self.length
        samples = self.samples.select(0, time)  # a third of the time of indexing, which shows in small batches
        with torch.no_grad():
            output = policy.network(self.inputs.select(0, time).to(policy.device))
            self.outputs.select(0, time).copy_(output)
            samples.copy_(policy.distribution.sample(output, noise))
        actions = policy.actions.to_environment(policy.distribution.action(samples).numpy())
        transition = self.stepper.step(actions, budget, only)
        self.rewards[time], self.terminated[time] = transition.rewards, transition.terminated
        self.done[time], self.mask[time] = transition.done, transition.mask
        if transition.elapsed is not None:
            self.elapsed = np.ones(self.done.shape, np.int64) if self.elapsed is None else self.elapsed
            self.elapsed[time] = transition.elapsed
        if len(transition.final_envs):
            self.finals.append((time, transition))
        self.length += 1
        self._observe()
        return transition

    def _observe(self) -> None:
        self.observations[self.length] = self.stepper.observation
        self.policy.normalizer.apply(self.stepper.observation, self._inputs_view[self.length])

    def observed(self) -> NDArray[np.float32]:
        """Return the observations of the steps that count, (N, d), not normalized."""
        return self.observations[: self.length][self.mask[: self.length]]

    def ends(self) -> NDArray[np.bool_]:
        """Return whether an advantage stops at a step, (T, n): an episode ended, or the next step does not count."""
        ends = self.done[: self.length].copy()
        ends[:-1] |= ~self.mask[1 : self.length]
        return ends

    def critic_inputs(self, length: int) -> torch.Tensor:
        """Return what the critic sees in the first steps, (length n, critic_size)."""
        return self.inputs[:length].flatten(0, 1)

    def last_critic_inputs(self) -> torch.Tensor:
        """Return what it sees where episodes ended, (K, critic_size), in the order of `finals`."""
        last_observations = np.concatenate([step.final_observations for _, step in self.finals])
        return self.policy.normalizer.inputs(last_observations, self.policy.device)

    def values(self, critic: Callable[[torch.Tensor], torch.Tensor]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return V(s_t) and V(s_{t+1}), (T, n) each; where an episode ended, s_{t+1} is its own last observation."""

        def value(inputs: torch.Tensor) -> NDArray[np.float32]:
            parts = [critic(chunk.to(self.policy.device)) for chunk in torch.split(inputs, CHUNK)]
            return torch.cat(parts).reshape(-1).cpu().numpy()

        with torch.no_grad():
            values = value(self.critic_inputs(self.length + 1)).reshape(self.length + 1, -1)
            next_values = values[1:].copy()
            if self.finals:
                last = value(self.last_critic_inputs())
                times = np.concatenate([np.full(len(step.final_envs), time) for time, step in self.finals])
                next_values[times, np.concatenate([step.final_envs for _, step in self.finals])] = last
        return values[:-1], next_values

    def discounts(self, gamma: float) -> float | NDArray[np.float32]:
        """Return γ to the power of the time that each step took, (T, n); γ itself where every step takes the time 1."""
        return gamma if self.elapsed is None else (gamma ** self.elapsed[: self.length]).astype(np.float32)

    def batch(
        self, critic: Callable[[torch.Tensor], torch.Tensor], normalizer: ReturnNormalizer, gamma: float, lam: float
    ) -> Batch:
        """Return the transitions that count, with advantages by GAE of the scaled rewards, on the policy's device."""
        length, device, mask = self.length, self.policy.device, self.mask[: self.length]
        values, next_values = self.values(critic)
        discounts = self.discounts(gamma)
        rewards = normalizer.apply(self.rewards[:length], self.done[:length], mask, discounts)
        terminated, ends = self.terminated[:length], self.ends()
        advantages = gae(rewards, values, next_values, terminated, ends, gamma=discounts, lam=lam)
        inputs, outputs, samples = (part[:length].flatten(0, 1) for part in (self.inputs, self.outputs, self.samples))
        with torch.no_grad():
            log_prob = self.policy.distribution.log_prob(outputs.to(device), samples.to(device)).cpu()
        advantage, value = (torch.from_numpy(array.reshape(-1)) for array in (advantages, values))
        columns = [inputs, samples, log_prob, advantage, value + advantage, value]
        if not mask.all():
            kept = torch.from_numpy(np.flatnonzero(mask))
            columns = [column.index_select(0, kept) for column in columns]
        return Batch(*(column.to(device) for column in columns))


def explained_variance(values: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the share of the variance of targets (B,) that values (B,) explain; NaN where the targets do not vary."""
    variance, residual = targets.var(correction=0).item(), (targets - values).var(correction=0).item()
    return 1.0 - residual / variance if variance > 0 else math.nan


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
