"""Q-learning: a table of action values, and beside it double Q-learning and SARSA.

Sources: Watkins and Dayan, "Q-learning", Machine Learning 8, 1992 (the update, and learning rates under which it
converges); van Hasselt, "Double Q-learning", NeurIPS 2010 (algorithm 1); Rummery and Niranjan, "On-line Q-learning
using connectionist systems", 1994 (SARSA); Lin, "Self-improving reactive agents based on reinforcement learning,
planning and teaching", Machine Learning 8, 1992 (replay).

Every visit of a state s with an action a moves the table's cell towards what was found there,

    Q(s, a) ← Q(s, a) + α (r + γ V(s') - Q(s, a)),

V(s') being 0 after a termination, and otherwise, also at a time limit, the largest Q(s', ·); in double Q-learning the
other table's value of the action that this table thinks best; in SARSA the value of the action that is taken next.
Many environments are stepped at once; what happens when several of them visit one cell is told at `move_cells`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from gantry.agents.ladder.agent import Agent, Shapes, State
from gantry.agents.parts.validation import require
from gantry.agents.parts.schedules import Schedule, check_schedule, scheduled
from gantry.agents.parts.spaces import MOST_CATEGORIES
from gantry.errors import GantryError

Integers = NDArray[np.int64]
Numbers = NDArray[np.float64]

UNPLANNED = -1
"""In place of an action: none has been chosen yet."""


@dataclasses.dataclass(frozen=True)
class QLearningConfig:
    """Settings of Q-learning."""

    num_envs: int = 16
    """Environments stepped at once, where an id is given; a ready-made vector environment brings its own number."""
    report_steps: int = 32
    """Steps of every environment between two rows of metrics."""
    rule: Literal["q-learning", "double", "sarsa"] = "q-learning"
    """What the next state is worth: its largest value; the other of two tables' view; the action that is taken."""
    gamma: float = 0.99
    """Discount a step."""
    learning_rate_start: float = 0.1
    """α at first: the share of the way to its target that a value moves."""
    learning_rate_end: float = 0.1
    """α at last."""
    learning_rate_fraction: float = 1.0
    """The share of learning in which α gets there."""
    learning_rate_schedule: Literal["constant", "linear", "exponential", "visits"] = "constant"
    """How α gets there; or `visits`: it is (number of visits of this state and action) ** -visit_power instead."""
    visit_power: float = 1.0
    """Of `visits`: 1 averages all targets; 0.5 to 1 converges too, and forgets early targets sooner."""
    epsilon_start: float = 1.0
    """Share of random actions at first."""
    epsilon_end: float = 0.05
    """Share of random actions at last."""
    epsilon_fraction: float = 0.5
    """The share of learning in which it gets there."""
    epsilon_schedule: Schedule = "linear"
    """How it gets there."""
    initial_value: float = 0.0
    """What every action is thought to be worth at first. More than can be had makes the agent try them all."""
    replay_batches: int = 0
    """Batches of remembered transitions to learn from again after each step of the environments."""
    replay_batch_size: int = 256
    """Transitions in each of them."""
    memory: int = 65_536
    """Transitions remembered for that, at most; the oldest go first."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work.

        Raises:
            GantryError: names the setting and its range.
        """
        for name in ("num_envs", "report_steps", "replay_batch_size", "memory"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("gamma", "epsilon_start", "epsilon_end"):
            require(0.0 <= getattr(self, name) <= 1.0, name, "from 0 to 1", getattr(self, name))
        for name in ("learning_rate_start", "learning_rate_end", "visit_power"):
            require(0.0 < getattr(self, name) <= 1.0, name, "above 0 and at most 1", getattr(self, name))
        require(self.replay_batches >= 0, "replay_batches", "at least 0", self.replay_batches)
        if self.rule == "sarsa" and self.replay_batches:
            raise GantryError("SARSA learns what its present policy is worth; set replay_batches to 0")
        check_schedule("epsilon", self.epsilon_schedule, self.epsilon_start, self.epsilon_end, self.epsilon_fraction)
        if self.learning_rate_schedule != "visits":
            check_schedule(
                "learning_rate",
                self.learning_rate_schedule,
                self.learning_rate_start,
                self.learning_rate_end,
                self.learning_rate_fraction,
            )

    def epsilon_at(self, progress: float) -> float:
        """Share of random actions when a share `progress` of learning has passed."""
        return scheduled(self.epsilon_schedule, self.epsilon_start, self.epsilon_end, self.epsilon_fraction, progress)

    def learning_rate_at(self, progress: float, visits: Integers) -> Numbers:
        """Learning rates (k,) of cells that have had so many visits (k,), this one included."""
        if self.learning_rate_schedule == "visits":
            return visits.astype(np.float64) ** -self.visit_power
        form, first, last = self.learning_rate_schedule, self.learning_rate_start, self.learning_rate_end
        return np.full(len(visits), scheduled(form, first, last, self.learning_rate_fraction, progress))


def epsilon_greedy(values: Numbers, epsilon: float, noise: NDArray[np.floating]) -> Integers:
    """Actions (k,): with probability ε any, otherwise one of the best, ties broken at random.

    Args:
        values: (k, A) of the actions.
        epsilon: ε.
        noise: (k, A + 1) uniform in [0, 1); the last column decides about exploring.
    """
    best = values == values.max(axis=1, keepdims=True)
    allowed = best | (noise[:, -1:] < epsilon)
    return np.where(allowed, noise[:, :-1], -1.0).argmax(axis=1)


def next_values(tables: Numbers, which: Integers, states: Integers, actions: Integers | None = None) -> Numbers:
    """V(s') (k,): what the states that followed are worth.

    Args:
        tables: (1, S, A), or (2, S, A) of double Q-learning.
        which: (k,) the table that learns; the other one judges the action that it thinks best.
        states: (k,) s'.
        actions: (k,) that are taken there (SARSA); None for the best.
    """
    if actions is None:
        actions = tables[which, states].argmax(axis=1)
    values: Numbers = tables[len(tables) - 1 - which, states, actions]
    return values


def visit_order(cells: Integers) -> Integers:
    """The how-manieth of the rows with its cell each row (k,) is, from 1."""
    order = np.argsort(cells, kind="stable")
    sorted_cells = cells[order]
    first = np.searchsorted(sorted_cells, sorted_cells)
    result = np.empty_like(cells)
    result[order] = np.arange(1, len(cells) + 1) - first
    return result


def move_cells(values: Numbers, cells: Integers, targets: Numbers, rates: Numbers) -> None:
    """Move cells of `values` (C,), in place, towards targets (k,) with learning rates (k,).

    A cell with several rows moves towards the mean of their targets, by the share that all their rates together make,
    1 - Π (1 - α_j): as far as by updates one after another, in an order that no row is favoured by. With α_j = 1/visits
    the cell is then exactly the mean of all targets it ever had. Sums are taken in the order of rows, so that the same
    rows give the same bits.

    Args:
        values: the table, flat.
        cells: (k,) which one each row moves; repeats are allowed.
        targets: (k,).
        rates: (k,) in (0, 1].
    """
    hit, group, count = np.unique(cells, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=targets) / count
    kept = np.ones(len(hit))
    np.multiply.at(kept, group, 1.0 - rates)
    values[hit] = kept * values[hit] + (1.0 - kept) * mean


@dataclasses.dataclass
class Steps:
    """Transitions to learn from, k of them; everything is counted from 0."""

    states: Integers
    actions: Integers
    rewards: Numbers
    next_states: Integers
    terminated: NDArray[np.bool_]
    next_actions: Integers | None = None
    """Of SARSA."""

    def rows(self, index: NDArray[Any]) -> "Steps":
        """The given rows alone."""
        return Steps(
            self.states[index],
            self.actions[index],
            self.rewards[index],
            self.next_states[index],
            self.terminated[index],
            None if self.next_actions is None else self.next_actions[index],
        )


class Memory:
    """The last transitions, at most `capacity`, in arrays that are written round and round."""

    def __init__(self, capacity: int) -> None:
        empty = np.zeros(capacity, np.int64)
        self._steps = Steps(empty, empty.copy(), np.zeros(capacity), empty.copy(), np.zeros(capacity, np.bool_))
        self._columns = [field.name for field in dataclasses.fields(Steps) if field.name != "next_actions"]
        self.capacity = capacity
        self.total = 0
        """Transitions ever added."""

    def __len__(self) -> int:
        """How many are held."""
        return min(self.total, self.capacity)

    def add(self, steps: Steps) -> None:
        """Take in transitions."""
        count = len(steps.states)
        places = np.arange(self.total, self.total + count)[-self.capacity :] % self.capacity
        for name in self._columns:
            getattr(self._steps, name)[places] = getattr(steps, name)[-self.capacity :]
        self.total += count

    def rows(self, index: Integers) -> Steps:
        """The transitions at the given places (k,), each below `len`."""
        return self._steps.rows(index)

    def state(self) -> State:
        """What is held, and how much there ever was."""
        held = len(self)
        columns = {name: torch.from_numpy(getattr(self._steps, name)[:held].copy()) for name in self._columns}
        return columns, {"total": self.total}

    def load_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self.total = int(meta["total"])
        for name in self._columns:
            getattr(self._steps, name)[: len(self)] = tensors[name].numpy()


class QLearning(Agent):
    """A table, or two, of action values, learned from a Gymnasium vector environment of Discrete spaces.

    Attributes:
        tables: (1, S, A) float64; (2, S, A) in double Q-learning.
        visits: (1, S, A) or (2, S, A) int64, how often each cell was learned from, replay aside.
        epsilon: the present share of random actions.
    """

    name = "q-learning"
    config_class = QLearningConfig

    @classmethod
    def check_spaces(cls, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
        """Refuse whatever is no pair of Discrete spaces.

        Raises:
            GantryError: says which, and what to do.
        """
        for what, space in (("observations", observation_space), ("actions", action_space)):
            if not isinstance(space, gymnasium.spaces.Discrete):
                other = "--agent dqn learns from" if what == "observations" else "--agent ppo takes"
                raise GantryError(
                    f"q-learning keeps a table, for which {what} must be Discrete, not {space}; an option of the "
                    f"environment may give such (gantry/VacuumRooms-v0: --env observation=discrete), or {other} others"
                )
        if int(observation_space.n) > MOST_CATEGORIES:  # type: ignore[attr-defined]
            raise GantryError(f"a table of {observation_space} is too large, beyond {MOST_CATEGORIES}; use --agent dqn")

    def _build(self) -> None:
        shape = self._shape(self.observation_space, self.action_space, self.config)
        self.tables = np.full(shape, self.config.initial_value)
        self.visits = np.zeros(shape, np.int64)
        self.epsilon = self.config.epsilon_start

    def _prepare(self) -> None:
        self._planned = np.full(self.config.num_envs, UNPLANNED)
        self._memory = Memory(self.config.memory) if self.config.replay_batches else None

    # Acting

    @property
    def table(self) -> Numbers:
        """(S, A) action values; of double Q-learning the mean of its two tables."""
        return self.tables.mean(axis=0)

    def action_values(self, observation: Any) -> Numbers:
        """What the actions are thought to be worth, (A,) for one observation or (k, A) for a batch of them.

        Raises:
            GantryError: it is no state of the table.
        """
        rows, single = self._observation_map.given(observation)
        values = self._values(rows.argmax(axis=1))
        return values[0] if single else values

    def _values(self, states: Integers) -> Numbers:
        """(k, A) of states (k,)."""
        values: Numbers = self.tables[:, states].mean(axis=0)
        return values

    def _decide(self, observations: NDArray[np.float32], deterministic: bool) -> NDArray[Any]:
        values = self._values(observations.argmax(axis=1))
        if deterministic:
            return values.argmax(axis=1)
        noise = torch.rand((len(values), values.shape[1] + 1), generator=self._acting_generator)
        return epsilon_greedy(values, self.epsilon, noise.numpy())

    # Learning

    def _advance(self, total_steps: int) -> dict[str, float]:
        """Step every environment `report_steps` times, or as often as the budget allows, learning from every step."""
        config, stepper = self.config, self._stepper
        choices = self._action_map.size + 1
        noise = torch.rand((config.report_steps, stepper.num_envs, 2 * choices + 1), generator=self._generator).numpy()
        errors: list[Numbers] = []
        rates: list[Numbers] = []
        for now in noise:
            if self.steps >= total_steps:
                break
            progress = self.steps / total_steps
            self.epsilon = config.epsilon_at(progress)
            counted = self._counted(total_steps - self.steps)
            steps = self._step(now[:, :choices], now[:, choices:-1], counted)
            if counted is not None:
                steps = steps.rows(counted)
            which = (now[:, -1] < 0.5).astype(np.int64) * (len(self.tables) - 1)
            learned = self._learn_from(steps, which if counted is None else which[counted], progress, new=True)
            errors.append(learned[0])
            rates.append(learned[1])
            self.steps += len(steps.states)
            if self._memory is not None:
                self._memory.add(steps)
                self._replay(self._memory, progress)
        return {
            "epsilon": self.epsilon,
            "learning_rate": _mean(rates),
            "td_error": _mean(errors),
            "cells_visited": float(np.count_nonzero(self.visits.any(axis=0))),
        }

    def _step(
        self, noise: NDArray[np.float32], next_noise: NDArray[np.float32], counted: NDArray[np.bool_] | None
    ) -> Steps:
        """One step of every environment; randomness (n, A + 1) for this action, and for the next one."""
        stepper, states = self._stepper, self._stepper.observation.argmax(axis=1)
        actions = epsilon_greedy(self._values(states), self.epsilon, noise)
        if self.config.rule == "sarsa":
            actions = np.where(self._planned == UNPLANNED, actions, self._planned)
        transition, infos = stepper.step(self._action_map.to_environment(actions))
        self._episodes.add(transition, infos, counted)
        next_states = stepper.observation.argmax(axis=1)
        next_states[transition.final_rows] = transition.final_observations.argmax(axis=1)
        next_actions = None
        if self.config.rule == "sarsa":
            next_actions = epsilon_greedy(self._values(next_states), self.epsilon, next_noise)
            goes_on = ~transition.done if transition.valid is None else ~transition.done & transition.valid
            self._planned = np.where(goes_on, next_actions, UNPLANNED)
        return Steps(
            states, actions, transition.rewards.astype(np.float64), next_states, transition.terminated, next_actions
        )

    def _learn_from(self, steps: Steps, which: Integers, progress: float, new: bool) -> tuple[Numbers, Numbers]:
        """Learn from transitions, each with the table `which` (k,); returns absolute errors and learning rates (k,).

        Raises:
            GantryError: a reward is NaN or infinite, or values have grown beyond all bounds.
        """
        ahead = next_values(self.tables, which, steps.next_states, steps.next_actions)
        targets = steps.rewards + self.config.gamma * np.where(steps.terminated, 0.0, ahead)
        if not np.isfinite(targets).all():
            raise GantryError(
                f"learning stopped after {self.steps} steps: a reward is NaN or infinite, or values grow without "
                "bound; the last good table is kept; repair the environment's rewards, or lower gamma"
            )
        cells = np.ravel_multi_index((which, steps.states, steps.actions), self.tables.shape)
        values, visits = self.tables.reshape(-1), self.visits.reshape(-1)
        # What is replayed is no visit; the other of two tables may have seen none yet.
        number = visits[cells] + visit_order(cells) if new else np.maximum(visits[cells], 1)
        rates = self.config.learning_rate_at(progress, number)
        errors = np.abs(targets - values[cells])
        move_cells(values, cells, targets, rates)
        if new:
            np.add.at(visits, cells, 1)
        return errors, rates

    def _replay(self, memory: Memory, progress: float) -> None:
        """Learn from `replay_batches` batches of remembered transitions."""
        shape = self.config.replay_batches, self.config.replay_batch_size
        places = torch.randint(len(memory), shape, generator=self._generator).numpy()
        which = torch.randint(len(self.tables), shape, generator=self._generator).numpy()
        for batch, learners in zip(places, which, strict=True):
            self._learn_from(memory.rows(batch), learners, progress, new=False)

    # Saving, and going on

    @staticmethod
    def _shape(
        observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], config: QLearningConfig
    ) -> tuple[int, int, int]:
        assert isinstance(observation_space, gymnasium.spaces.Discrete)
        assert isinstance(action_space, gymnasium.spaces.Discrete)
        return (2 if config.rule == "double" else 1), int(observation_space.n), int(action_space.n)

    def _policy_tensors(self) -> dict[str, torch.Tensor]:
        return {
            "tables": torch.from_numpy(self.tables.copy()),
            "visits": torch.from_numpy(self.visits.copy()),
            "epsilon": torch.tensor(self.epsilon, dtype=torch.float64),
        }

    def _load_policy_tensors(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tables, self.visits = tensors["tables"].numpy().copy(), tensors["visits"].numpy().copy()
        self.epsilon = float(tensors["epsilon"])

    @classmethod
    def _expected_tensors(
        cls, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any], config: Any
    ) -> Shapes:
        shape = cls._shape(observation_space, action_space, config)
        return {
            "tables": (shape, torch.float64),
            "visits": (shape, torch.int64),
            "epsilon": ((), torch.float64),
        }

    def _learner_state(self) -> State:
        tensors = {"planned": torch.from_numpy(self._planned.copy())}
        if self._memory is None:
            return tensors, {}
        held, meta = self._memory.state()
        return {**tensors, **held}, meta

    def _load_learner_state(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        self._planned = tensors["planned"].numpy().copy()
        if self._memory is not None:
            self._memory.load_state(tensors, meta)


def _mean(parts: list[Numbers]) -> float:
    """Of all numbers in the parts; NaN where there is none."""
    numbers = np.concatenate(parts)
    return float(numbers.mean()) if len(numbers) else math.nan
