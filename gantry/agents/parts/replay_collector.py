"""Acting into a replay buffer and sampling from it: what agents hold that learn off-policy."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Stateful, attributes
from gantry.agents.parts.experience import Experience
from gantry.agents.parts.exploration import Noise
from gantry.agents.parts.hindsight import Hindsight, make_goals_relative
from gantry.agents.parts.normalization import ObservationNormalizer
from gantry.agents.parts.priorities import Priorities
from gantry.agents.parts.replay import Minibatch, ReplayBuffer
from gantry.agents.parts.schedules import scheduled
from gantry.agents.parts.training_loop import Metrics, Update
from gantry.agents.parts.vector_stepper import Transition, VectorStepper, generators, reset_seed
from gantry.errors import GantryError
from gantry.machine.memory import require_memory
from gantry.machine.threads import torch_threads
from gantry.spaces.maps import ActionMap, ObservationMap, Spaces
from gantry.types import Array, Observation, Space

Explore = Callable[[torch.Tensor, float], torch.Tensor]
"""Actions, (n, A) or (n,), from network inputs (n, d) and the share of learning that has passed."""


class ReplayConfig(Protocol):
    """Settings of collecting and sampling, which mean the same in every agent with a replay buffer."""

    @property
    def buffer_size(self) -> int:
        """Transitions that are kept."""

    @property
    def learning_starts(self) -> int:
        """Environment steps of uniformly random actions before the first update."""

    @property
    def train_freq(self) -> int:
        """Vector steps between updates."""

    @property
    def gradient_steps(self) -> int:
        """Gradient steps per update."""

    @property
    def batch_size(self) -> int:
        """Transitions per gradient step."""

    @property
    def gamma(self) -> float:
        """Discount per step."""

    @property
    def n_step(self) -> int:
        """Steps of real rewards in a return, at most."""

    @property
    def normalize_observation(self) -> bool:
        """Scale observations by their running statistics."""

    @property
    def stagger_first_episodes(self) -> bool:
        """Cut first episodes short at evenly spread times."""

    @property
    def report_every(self) -> int:
        """Vector steps per row of metrics."""

    @property
    def device(self) -> str:
        """Where the networks are."""


class ReplayCollector:
    """Steps a vector environment into a replay buffer, and samples the minibatches that are due in between.

    Args:
        env: the environment, or the spaces alone for a policy that only acts.
        config: settings.
        seed: of exploration and sampling.
        env_seed: of the environment's first reset; None derives it from `seed`.
        relative_goals: show the networks the difference from achieved to desired goal in its place.
        noise: on actions, told where episodes begin; None: no noise.
        hindsight: relabels minibatches; None: no hindsight replay.
        priorities: of the buffer's transitions; None samples uniformly.

    Attributes:
        observations, actions: maps from and to the environment's.
        normalizer: of observations.
        random: of initial weights, exploration and sampling.
        acting_random: of acting outside of learning, so that it does not change learning.
        stepper: steps the environment.
        buffer: the transitions.
    """

    def __init__(
        self, env: VectorEnv | Spaces, config: ReplayConfig, seed: int, env_seed: int | None,
        relative_goals: bool = False, noise: Noise | None = None, hindsight: Hindsight | None = None,
        priorities: Priorities | None = None,
    ) -> None:  # fmt: skip
        self.config, self.relative_goals = config, relative_goals
        self.noise, self.hindsight, self.priorities = noise, hindsight, priorities
        self.observations = ObservationMap(env.single_observation_space)
        self.actions = ActionMap(env.single_action_space)
        self.random, self.acting_random = generators(seed)
        size, action_size = self.observations.size, self.actions.size if self.actions.continuous else 1
        self.normalizer = ObservationNormalizer(size, config.normalize_observation)
        self.stepper = VectorStepper(env, reset_seed(env, seed, env_seed), config.stagger_first_episodes)
        learns = isinstance(env, VectorEnv)
        capacity = config.buffer_size if learns else max(config.n_step, 2) * env.num_envs  # the least that is taken
        transitions = config.gradient_steps * config.batch_size
        require_memory(
            transitions * (2 * size + action_size + 2), "batch_size", f"a sample of {transitions:,} transitions"
        )
        self.buffer = ReplayBuffer(capacity, env.num_envs, size, action_size, config.gamma, config.n_step)

    @property
    def parts(self) -> dict[str, Stateful]:
        """What further learning depends on, for the checkpoint."""
        return attributes(self, "stepper", "buffer", "noise", "priorities", "random", "acting_random")

    # What networks see

    def given(self, observation: Observation) -> tuple[torch.Tensor, bool]:
        """Return network inputs (k, d) of one observation or k, from outside, and whether it was a single one.

        Raises:
            GantryError: the observation has another shape, is not numeric, or holds NaN or infinity.
        """
        vectors, single = self.observations.given(observation)
        return self._inputs(vectors), single

    def _inputs(self, observations: NDArray[np.float32]) -> torch.Tensor:
        """Return observation vectors (k, d) as the networks see them, on their device."""
        inputs = observations.copy()
        self._process(inputs)
        return torch.from_numpy(inputs).to(self.config.device)

    def _process(self, observations: NDArray[np.float32]) -> None:
        """Make goals relative, if so set, and normalize observations (k, d), in place."""
        if self.relative_goals:
            make_goals_relative(observations, self.observations)
        if self.normalizer.enabled:
            self.normalizer.apply(observations, observations)

    # Acting

    def act(self, observation: Observation, choose: Callable[[torch.Tensor], torch.Tensor]) -> Array:
        """Return the environment's actions for one observation or k; `choose` gives the policy's for network inputs.

        Raises:
            GantryError: the observation has another shape, is not numeric, or holds NaN or infinity.
        """
        with torch.no_grad(), torch_threads(1):
            inputs, single = self.given(observation)
            actions = self.actions.to_environment(choose(inputs).cpu().numpy())
        return actions[0] if single else actions

    def minibatches(self, update: Update, explore: Explore) -> Iterator[Minibatch]:
        """Take an update's vector steps, and yield the minibatches to learn from as they fall due.

        Args:
            update: whose budget counts.
            explore: chooses the actions.
        """
        config = self.config
        seen: list[NDArray[np.float32]] = []
        while len(seen) < config.report_every and update.remaining > 0:
            seen.append(self._step(update, explore))
            learning = self.stepper.steps >= config.learning_starts and len(self.buffer) > 0
            if learning and self.buffer.time % config.train_freq == 0:
                batch = self.sample(config.gradient_steps * config.batch_size, update.progress)
                yield from batch.split(config.gradient_steps, config.device)
        observations = np.concatenate(seen)
        if self.relative_goals:
            make_goals_relative(observations, self.observations)
        self.normalizer.update(observations)

    def _step(self, update: Update, explore: Explore) -> NDArray[np.float32]:
        """Take one vector step into the buffer; returns the observations (k, d) that it started from."""
        if self.stepper.restarted:
            self.buffer.break_episodes()
            self._begin_episodes(np.arange(self.stepper.num_envs))
        observation = self.stepper.observation
        if self.stepper.steps >= self.config.learning_starts:
            with torch.no_grad():
                actions = explore(self._inputs(observation), update.progress).cpu()
        elif self.actions.continuous:
            actions = torch.rand((len(observation), self.actions.size), generator=self.random) * 2.0 - 1.0
        else:
            actions = torch.randint(self.actions.size, (len(observation),), generator=self.random)
        transition = self.stepper.step(self.actions.to_environment(actions.numpy()), update.remaining)
        indices = self.buffer.add(observation, actions.numpy(), transition, self.stepper.observation)
        if self.priorities is not None:
            self.priorities.added(indices, transition.mask)
        self._begin_episodes(transition.final_envs)
        return observation[transition.mask]

    def _begin_episodes(self, envs: NDArray[np.int64]) -> None:
        if self.noise is not None:
            self.noise.begin_episodes(envs)

    def add_experience(self, experience: Experience) -> None:
        """Write transitions that others made into the buffer, the last ones that fit; they are not steps of learning.

        Each environment's part of the buffer gets a stretch of consecutive ones.
        """
        num_envs = self.buffer.num_envs
        count = min(len(experience), self.buffer.slots * num_envs)
        kept = experience.last(count)
        actions, length = self.actions.from_environment(kept.actions), math.ceil(count / num_envs)
        for step in range(length):
            index = np.arange(num_envs) * length + step
            mask = index < count
            rows = np.minimum(index, count - 1)
            done = (kept.done[rows] | (step == length - 1)) & mask
            envs, after = np.flatnonzero(done), kept.next_observations[rows]
            transition = Transition(kept.rewards[rows], kept.terminated[rows], done, mask, envs, after[envs])
            indices = self.buffer.add(kept.observations[rows], actions[rows], transition, after)
            if self.priorities is not None:
                self.priorities.added(indices, mask)
        if self.normalizer.enabled:
            observations = kept.observations.copy()
            if self.relative_goals:
                make_goals_relative(observations, self.observations)
            self.normalizer.update(observations)

    # Sampling

    def sample(self, count: int, progress: float) -> Minibatch:
        """Return `count` transitions as the networks see them, when a share `progress` of learning has passed."""
        weights = None
        if self.priorities is None:
            indices = self.buffer.sample(count, self.random)
        else:
            beta = scheduled("linear", self.priorities.beta, 1.0, 1.0, progress)
            indices, weights = self.priorities.sample(count, beta, self.random)
        batch = self.buffer.gather(indices, weights)
        if self.hindsight is not None:
            self.hindsight.relabel(self.buffer, batch, self.random)
        for observations in (batch.observation, batch.next_observation):
            self._process(observations.numpy())
        return batch


def mean_metrics(names: Sequence[str], records: Sequence[tuple[float, ...]]) -> Metrics:
    """Return the means of what gradient steps returned, by name; NaN where there was none."""
    means = torch.tensor(records).mean(0).tolist() if records else [math.nan] * len(names)
    return dict(zip(names, means, strict=True))


def bounded_actions(agent: str, space: Space) -> ActionMap:
    """Return the map to actions of a Box with finite bounds; refuse others, for an agent of this name (GantryError)."""
    if not isinstance(space, gymnasium.spaces.Box):
        others = "dqn or ppo" if isinstance(space, gymnasium.spaces.Discrete) else "ppo"
        raise GantryError(f"{agent} needs Box actions, not {space}; use {others}")
    actions = ActionMap(space)
    if not actions.bounded:
        raise GantryError(f"{agent} needs actions with finite bounds, not {space}; use ppo")
    return actions
