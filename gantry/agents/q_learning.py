"""Tabular Q-learning, double Q-learning and SARSA, with optional experience replay.

Sources: Watkins and Dayan, "Q-learning", Machine Learning 8, 1992 (the update, and learning rates under which it
converges); van Hasselt, "Double Q-learning", NeurIPS 2010 (algorithm 1); Rummery and Niranjan, "On-line Q-learning
using connectionist systems", 1994 (SARSA); Lin, "Self-improving reactive agents based on reinforcement learning,
planning and teaching", Machine Learning 8, 1992 (replay).

Every transition (s, a, r, s') moves the table towards a target,

    Q(s, a) ← Q(s, a) + α (r + γ V(s') - Q(s, a)),

where V(s') is 0 after a termination, and otherwise, also at a time limit: max_a' Q(s', a') in Q-learning; in double
Q-learning the other table's value of this table's best action; in SARSA the value of the action taken next. Many
environments are stepped at once; `move_cells` says what happens when several of them visit one cell.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Literal, Self

import gymnasium
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from gantry.agents.parts.checkpoint import Checkpoint, attributes
from gantry.agents.parts.replay import ReplayBuffer
from gantry.agents.parts.schedules import Schedule, check_schedule, scheduled
from gantry.agents.parts.training_loop import Metrics, training_loop
from gantry.agents.parts.vector_stepper import Transition, VectorStepper, generators, reset_seed, settled
from gantry.errors import GantryError
from gantry.machine.memory import require_memory
from gantry.settings.fields import Count, Fraction, Share, Whole, among, between, validate
from gantry.spaces.encodings import MOST_CATEGORIES
from gantry.spaces.maps import ActionMap, ObservationMap, Spaces
from gantry.types import Array, Observation, Space

Integers = NDArray[np.int64]
Numbers = NDArray[np.float64]
RateSchedule = Literal["constant", "linear", "exponential", "visits"]

NOT_CHOSEN = -1
"""SARSA's next action where none has been chosen yet, as an episode begins."""


@dataclasses.dataclass(frozen=True)
class QLearningConfig:
    """Settings of Q-learning."""

    num_envs: Annotated[Count, between(1, 64, log=True)] = 16
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    report_steps: Count = 32
    """Steps of every environment per update, that is, between two reports of metrics."""
    rule: Literal["q-learning", "double", "sarsa"] = "q-learning"
    """Value of the next state: its largest action value; double: the other of two tables' value of the best action;
    sarsa: the value of the action taken next."""
    gamma: Annotated[Share, between(0.9, 1.0)] = 0.99
    """Discount per step."""
    learning_rate_start: Annotated[Fraction, between(0.01, 1.0, log=True)] = 0.1
    """Initial learning rate α: the fraction of the way to its target that a value moves."""
    learning_rate_end: Annotated[Fraction, between(0.01, 1.0, log=True)] = 0.1
    """Final learning rate."""
    learning_rate_fraction: Fraction = 1.0
    """Fraction of learning after which the final learning rate is reached."""
    learning_rate_schedule: Annotated[RateSchedule, among("constant", "linear", "exponential")] = "constant"
    """How α changes; or `visits`: α = (number of visits of this state and action) ** -visit_power."""
    visit_power: Fraction = 1.0
    """Exponent for the `visits` schedule: 1 averages all targets; 0.5 to 1 converges too, and forgets early ones."""
    epsilon_start: Share = 1.0
    """Initial probability of a random action."""
    epsilon_end: Annotated[Share, between(0.0, 0.1)] = 0.05
    """Final probability of a random action."""
    epsilon_fraction: Annotated[Fraction, between(0.1, 0.9)] = 0.5
    """Fraction of learning after which the final probability is reached."""
    epsilon_schedule: Schedule = "linear"
    """How the probability of a random action changes."""
    initial_value: float = 0.0
    """Initial Q value; an optimistic one makes the agent explore."""
    replay_batches: Annotated[Whole, between(0, 8)] = 0
    """Batches of past transitions to learn from after each step of the environments."""
    replay_batch_size: Count = 256
    """Transitions per replayed batch."""
    replay_capacity: Count = 65_536
    """Transitions kept for replay, at most; the oldest are overwritten."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError with the setting and its range."""
        validate(self)
        if self.rule == "sarsa" and self.replay_batches:
            raise GantryError("SARSA is on-policy and cannot learn from old transitions; set replay_batches to 0")
        check_schedule("epsilon", self.epsilon_schedule, self.epsilon_start, self.epsilon_end)
        if self.learning_rate_schedule != "visits":
            form, start, end = self.learning_rate_schedule, self.learning_rate_start, self.learning_rate_end
            check_schedule("learning_rate", form, start, end)

    def epsilon_at(self, progress: float) -> float:
        """Return the probability of a random action after a fraction `progress` of learning."""
        return scheduled(self.epsilon_schedule, self.epsilon_start, self.epsilon_end, self.epsilon_fraction, progress)

    def learning_rate_at(self, progress: float, visits: Integers) -> Numbers:
        """Return the learning rates (k,) of cells with these numbers of visits (k,), the present one included."""
        if self.learning_rate_schedule == "visits":
            return visits.astype(np.float64) ** -self.visit_power
        form, start, end = self.learning_rate_schedule, self.learning_rate_start, self.learning_rate_end
        return np.full(len(visits), scheduled(form, start, end, self.learning_rate_fraction, progress))


def epsilon_greedy(values: Numbers, epsilon: float, noise: NDArray[np.floating]) -> Integers:
    """Return actions (k,): random ones with probability ε, otherwise the best, with ties broken at random.

    Args:
        values: (k, A) action values.
        epsilon: ε.
        noise: (k, A + 1) uniform in [0, 1); the last column decides whether to explore.
    """
    best = values == values.max(axis=1, keepdims=True)
    allowed = best | (noise[:, -1:] < epsilon)
    return np.where(allowed, noise[:, :-1], -1.0).argmax(axis=1)


def next_values(tables: Numbers, which: Integers, states: Integers, actions: Integers | None = None) -> Numbers:
    """Return the values V(s') (k,) of next states.

    Args:
        tables: (1, S, A) action values, or (2, S, A) for double Q-learning.
        which: (k,) the table that learns; the other one values the action that it finds best.
        states: (k,) s'.
        actions: (k,) actions taken there (SARSA); None: the best ones.
    """
    if actions is None:
        actions = tables[which, states].argmax(axis=1)
    return tables[len(tables) - 1 - which, states, actions]


def occurrence_numbers(cells: Integers) -> Integers:
    """Return for each entry of `cells` (k,) how often its cell has occurred so far, itself included, from 1."""
    order = np.argsort(cells, kind="stable")
    sorted_cells = cells[order]
    first = np.searchsorted(sorted_cells, sorted_cells)
    result = np.empty_like(cells)
    result[order] = np.arange(1, len(cells) + 1) - first
    return result


def move_cells(values: Numbers, cells: Integers, targets: Numbers, rates: Numbers) -> None:
    """Move cells of `values` (C,), in place, towards targets (k,) with learning rates (k,).

    A cell with several targets moves towards their mean by the combined rate 1 - Π (1 - α_j): as far as by updates one
    after another, without favoring an order. With α_j = 1/visits the cell is then exactly the mean of all its targets.
    Sums are taken in the given order, so that the same input gives the same bits.

    Args:
        values: the table, flattened.
        cells: (k,) the cell of each target; repeats are allowed.
        targets: (k,).
        rates: (k,) in (0, 1].
    """
    hit, group, count = np.unique(cells, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=targets) / count
    kept = np.ones(len(hit))
    np.multiply.at(kept, group, 1.0 - rates)
    values[hit] = kept * values[hit] + (1.0 - kept) * mean


@dataclasses.dataclass
class Transitions:
    """A batch of k transitions between states and actions that are counted from 0."""

    states: Integers
    actions: Integers
    rewards: Numbers
    next_states: Integers
    terminated: NDArray[np.bool_]
    next_actions: Integers | None = None
    """Actions taken in the next states (SARSA)."""
    discounts: Numbers | None = None
    """γ to the time that each took, where that is not always 1."""

    def select(self, index: Array) -> "Transitions":
        """Return the transitions at `index`: integers, or a mask (k,)."""
        chosen = {name: column[index] for name, column in vars(self).items() if column is not None}
        return dataclasses.replace(self, **chosen)


class QTables:
    """One table of action values, or two for double Q-learning, with visit counts and the exploration rate.

    Attributes:
        values: (1, S, A) or (2, S, A) float64 action values.
        visits: int64 of the same shape, how often each cell was learned from, replay not counted.
        epsilon: probability of a random action.
    """

    STATE = ("values", "visits", "epsilon")

    def __init__(self, shape: tuple[int, int, int], initial_value: float, epsilon: float) -> None:
        self.values = np.full(shape, initial_value)
        self.visits = np.zeros(shape, np.int64)
        self.epsilon = epsilon

    def action_values(self, states: Integers) -> Numbers:
        """Return Q(s, ·) (k, A) of states (k,), the mean of both tables in double Q-learning."""
        return self.values[:, states].mean(axis=0)


def table_size(observation_space: Space, action_space: Space) -> tuple[int, int]:
    """Return the numbers of states S and actions A of two Discrete spaces.

    Raises:
        GantryError: a space is not Discrete, or the table would be too large; says what to do.
    """
    for what, space in (("observations", observation_space), ("actions", action_space)):
        if not isinstance(space, gymnasium.spaces.Discrete):
            other = "--agent dqn learns from" if what == "observations" else "--agent ppo takes"
            raise GantryError(
                f"q-learning keeps a table, for which {what} must be Discrete, not {type(space).__name__}; an option "
                f"of the environment may make them so (gantry/VacuumRooms-v0: --env observation=discrete), or {other} "
                "such as they are"
            )
    states, actions = int(observation_space.n), int(action_space.n)  # type: ignore[attr-defined]
    if states > MOST_CATEGORIES:
        raise GantryError(f"a table of {observation_space} is beyond {MOST_CATEGORIES} rows; observe a Box instead")
    return states, actions


class QLearning:
    """Tables of action values, learned from a Gymnasium vector environment of Discrete spaces.

    Args:
        env: any vector environment (or its spaces alone, for a policy that only acts).
        config: settings.
        seed: of exploration and replay; no global random state is used or changed.
        env_seed: of the environment's first reset; None derives it from `seed`.

    Attributes:
        q: the tables, with all that acting needs.
        steps: environment steps learned from so far.

    Raises:
        GantryError: the spaces are not Discrete.
    """

    name: ClassVar[str] = "q-learning"

    def __init__(
        self, env: VectorEnv | Spaces, config: QLearningConfig = QLearningConfig(), seed: int = 0,
        env_seed: int | None = None,
    ) -> None:  # fmt: skip
        config, seed = settled(QLearningConfig, config, env, seed)
        states, actions = table_size(env.single_observation_space, env.single_action_space)
        self.env, self.config = env, config
        self._random, self._acting_random = generators(seed)
        self._observations = ObservationMap(env.single_observation_space)
        self._actions = ActionMap(env.single_action_space)
        tables = 2 if config.rule == "double" else 1
        require_memory(4 * tables * states * actions, "observation or action space")  # two of 8 bytes each
        require_memory(config.report_steps * env.num_envs * (2 * actions + 1), "report_steps", "random numbers")
        require_memory(2 * config.replay_batches * config.replay_batch_size, "replay_batches", "a replay")
        self.q = QTables((tables, states, actions), config.initial_value, config.epsilon_start)
        self._next_actions = np.full(env.num_envs, NOT_CHOSEN)  # of SARSA, for the coming step
        self.stepper = VectorStepper(env, reset_seed(env, seed, env_seed))
        self._replay: ReplayBuffer | None = None
        if config.replay_batches:
            capacity = max(config.replay_capacity, 2 * env.num_envs)  # the least that the buffer takes
            self._replay = ReplayBuffer(capacity, env.num_envs, 1, 1, config.gamma, setting="replay_capacity")
        self.checkpoint = Checkpoint(
            policy={"q": self.q},
            trainer=attributes(self, "_next_actions", "stepper", "_replay", "_random", "_acting_random"),
        )

    @property
    def steps(self) -> int:
        """Environment steps learned from so far."""
        return self.stepper.steps

    @property
    def table(self) -> Numbers:
        """(S, A) action values; in double Q-learning the mean of the two tables."""
        return self.q.values.mean(axis=0)

    @property
    def visits(self) -> Integers:
        """(S, A) how often each state and action was learned from, replay not counted."""
        return self.q.visits.sum(axis=0)

    def action_values(self, observation: Observation) -> Numbers:
        """Return Q(s, ·): (A,) for one observation, or (k, A) for a batch of k.

        Raises:
            GantryError: the observation is not a state of the table.
        """
        vectors, single = self._observations.given(observation)
        values = self.q.action_values(vectors.argmax(axis=1))
        return values[0] if single else values

    def act(self, observation: Observation, deterministic: bool = True) -> Array:
        """Return the action for one observation or a batch of them: the best, or an ε-greedy one."""
        values = self.action_values(observation)
        batch = np.atleast_2d(values)
        if deterministic:
            actions = batch.argmax(axis=1)
        else:
            noise = torch.rand((len(batch), batch.shape[1] + 1), generator=self._acting_random)
            actions = epsilon_greedy(batch, self.q.epsilon, noise.numpy())
        actions = self._actions.to_environment(actions)
        return actions[0] if values.ndim == 1 else actions

    def learn(self, total_steps: int, callback: Callable[[Self, Metrics], bool | None] | None = None) -> Self:
        """Learn until `total_steps` environment steps have been taken in all; see `training_loop`."""
        config, choices = self.config, self._actions.size + 1
        with training_loop(self, total_steps, callback) as updates:
            for update in updates:
                shape = config.report_steps, config.num_envs, 2 * choices + 1
                errors: list[Numbers] = []
                rates: list[Numbers] = []
                for noise in torch.rand(shape, generator=self._random).numpy():
                    if update.remaining <= 0:
                        break
                    progress = update.progress
                    self.q.epsilon = config.epsilon_at(progress)
                    transitions, step = self._step(noise[:, :choices], noise[:, choices:-1], update.remaining)
                    which = (noise[:, -1] < 0.5).astype(np.int64) * (len(self.q.values) - 1)
                    error, rate = self.update(transitions.select(step.mask), which[step.mask], progress)
                    errors.append(error)
                    rates.append(rate)
                    if self._replay is not None:
                        step.final_observations = transitions.next_states[step.final_envs, None].astype(np.float32)
                        both = transitions.states, transitions.next_states
                        states, next_states = (each[:, None].astype(np.float32) for each in both)
                        self._replay.add(states, transitions.actions, step, next_states)
                        self._learn_from_replay(self._replay, progress, step.elapsed is not None)
                update.report(
                    {
                        "epsilon": self.q.epsilon,
                        "learning_rate": _mean(rates),
                        "td_error": _mean(errors),
                        "cells_visited": float(np.count_nonzero(self.visits)),
                    }
                )
        return self

    def _step(
        self, noise: NDArray[np.float32], next_noise: NDArray[np.float32], budget: int
    ) -> tuple[Transitions, Transition]:
        """Step every environment once.

        Args:
            noise: (n, A + 1) randomness for this step's actions.
            next_noise: (n, A + 1) randomness for SARSA's next actions.
            budget: environment steps that may still be counted.

        Returns:
            The transitions (n) between states, and what the stepper said of them.
        """
        states = self.stepper.observation.argmax(axis=1)
        actions = epsilon_greedy(self.q.action_values(states), self.q.epsilon, noise)
        if self.config.rule == "sarsa":
            actions = np.where(self._next_actions == NOT_CHOSEN, actions, self._next_actions)
        step = self.stepper.step(self._actions.to_environment(actions), budget)
        next_states = self.stepper.observation.argmax(axis=1)
        next_states[step.final_envs] = step.final_observations.argmax(axis=1)
        next_actions = None
        if self.config.rule == "sarsa":
            next_actions = epsilon_greedy(self.q.action_values(next_states), self.q.epsilon, next_noise)
            self._next_actions[:] = np.where(~step.done & step.mask, next_actions, NOT_CHOSEN)
        rewards = step.rewards.astype(np.float64)
        discounts = None if step.elapsed is None else (self.config.gamma**step.elapsed).astype(np.float64)
        return Transitions(states, actions, rewards, next_states, step.terminated, next_actions, discounts), step

    def update(
        self, transitions: Transitions, which: Integers, progress: float, replayed: bool = False
    ) -> tuple[Numbers, Numbers]:
        """Learn from k transitions.

        Args:
            transitions: k of them.
            which: (k,) the table that learns from each.
            progress: fraction of learning so far, for the learning rate.
            replayed: the transitions are old ones and do not count as visits.

        Returns:
            Absolute temporal-difference errors (k,) before the update, and learning rates (k,).

        Raises:
            GantryError: a reward is NaN or infinite, or values grow without bound.
        """
        tables = self.q.values
        bootstrap = next_values(tables, which, transitions.next_states, transitions.next_actions)
        discounts = self.config.gamma if transitions.discounts is None else transitions.discounts
        targets = transitions.rewards + discounts * np.where(transitions.terminated, 0.0, bootstrap)
        if not np.isfinite(targets).all():
            raise GantryError(
                "learning stopped: a reward is NaN or infinite, or values grow without bound; repair the environment's "
                "rewards, or lower gamma"
            )
        cells = np.ravel_multi_index((which, transitions.states, transitions.actions), tables.shape)
        values, visits = tables.reshape(-1), self.q.visits.reshape(-1)
        # In double Q-learning a replayed transition may be the first that this table learns from: its count is then 0.
        number = np.maximum(visits[cells], 1) if replayed else visits[cells] + occurrence_numbers(cells)
        rates = self.config.learning_rate_at(progress, number)
        errors = np.abs(targets - values[cells])
        move_cells(values, cells, targets, rates)
        if not replayed:
            np.add.at(visits, cells, 1)
        return errors, rates

    def _learn_from_replay(self, buffer: ReplayBuffer, progress: float, timed: bool) -> None:
        """Learn from `replay_batches` batches of stored transitions; the time is theirs where they are `timed`."""
        shape = self.config.replay_batches, self.config.replay_batch_size
        places = buffer.sample(math.prod(shape), self._random).view(shape)
        which = torch.randint(len(self.q.values), shape, generator=self._random).numpy()
        for indices, tables in zip(places, which, strict=True):
            batch = buffer.gather(indices)
            parts = batch.observation[:, 0], batch.action[:, 0], batch.next_observation[:, 0]
            states, actions, next_states = (part.numpy().astype(np.int64) for part in parts)
            rewards, discounts = (part.numpy().astype(np.float64) for part in (batch.reward, batch.discount))
            replayed = Transitions(states, actions, rewards, next_states, discounts == 0.0)
            replayed.discounts = discounts if timed else None
            self.update(replayed, tables, progress, replayed=True)


def _mean(parts: list[Numbers]) -> float:
    """Return the mean of all numbers in the parts; NaN if there are none."""
    numbers = np.concatenate(parts)
    return float(numbers.mean()) if len(numbers) else math.nan
