"""What only some tasks can: optional capabilities, each a small protocol.

A task declares one by naming it as a base class, `class MyTask(Task, Disturbable)`, and takes over the methods that it
does not write itself. The simulator asks with `isinstance`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import mujoco
import numpy as np
from mujoco.batch import Batch

from gantry.envs.disturbances import DisturbanceTarget
from gantry.envs.domain_randomization import PhysicalParameter
from gantry.types import Numeric, Observation, Space

if TYPE_CHECKING:
    from gantry.envs.rendering.scene import Marker
    from gantry.envs.state import State
    from gantry.envs.task import Task


@runtime_checkable
class Randomizable(Protocol):
    """A task with physical quantities of its own to randomize, beside those that every task has."""

    physics: ClassVar[Mapping[str, PhysicalParameter]]
    """The quantities by name."""

    def set_physics(self, batch: Batch, env_ids: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Write all quantities of `physics`, (k,) each, into the model fields of the environments `env_ids` (k,)."""
        ...


def declared_physics(task: "Task") -> dict[str, PhysicalParameter]:
    """Return the physical quantities of a task by name: those that every task has, and its own."""
    return {**task.common_physics, **(task.physics if isinstance(task, Randomizable) else {})}


@runtime_checkable
class Disturbable(Protocol):
    """A task whose robot can be pushed and hit by balls."""

    disturbance_target: ClassVar[DisturbanceTarget]
    """What pushes and balls aim at."""


@runtime_checkable
class GoalConditioned(Protocol):
    """A task that rewards reaching a goal, whichever it is, as hindsight replay needs it."""

    def compute_reward(self, achieved_goal: Numeric, desired_goal: Numeric, info: object = None) -> Numeric:
        """Return the reward (...) for reaching `achieved_goal` (..., goal) when asked for `desired_goal`."""
        ...


@runtime_checkable
class Team(Protocol):
    """A task of several robots alike, each of which can have a policy of its own.

    The task itself is that of the whole team: its observation is those of the robots one after another, its action
    theirs, its reward the sum of theirs.
    """

    robots: int
    """How many, k."""
    robot_observation_space: Space
    """The space of one robot's observation."""
    robot_action_space: Space
    """The space of one robot's action."""
    shared_reward: bool
    """Whether each robot is rewarded with the team's reward, not with its own."""

    def robot_rewards(self, features: Numeric, control: Numeric, next_features: Numeric) -> Numeric:
        """Return each robot's own reward (..., k) of transitions; arguments as for `Task.reward`."""
        ...


@runtime_checkable
class Plannable(Protocol):
    """A task whose observations are not its features, but from which a planner can tell them."""

    def planning_features(self, observations: np.ndarray) -> np.ndarray | None:
        """Return features (..., observation) of observations (..., observation); None where these do not show them.

        As many columns as an observation has: the first of the features, and at least those that rewards and
        terminations depend on.
        """
        ...


@runtime_checkable
class Shapeable(Protocol):
    """A task with a potential: a number that says how near to done a state is, for shaping its reward."""

    def potential(self, features: Numeric) -> Numeric:
        """Return the potential Φ (...) of features (..., number), for NumPy arrays and torch tensors alike."""
        ...


@runtime_checkable
class Replayable(Protocol):
    """A task whose observations show the whole state of its robot, so that logs can be replayed in simulation."""

    def place(self, state: "State", env_ids: np.ndarray, observations: np.ndarray) -> None:
        """Put environments `env_ids` (k,) where `observations` (k, observation) show them, with their velocities."""
        ...


@runtime_checkable
class Subgoals(Protocol):
    """A task with a choice of goals on the way, one of which a goal-conditioned skill is told."""

    subgoals: Sequence[str]
    """What each goal asks for, in words."""
    skill_observation_space: Space
    """The space of what one such skill observes."""

    def skill_observation(self, features: np.ndarray, goals: np.ndarray) -> Observation:
        """Return what a skill observes that is told `goals` (n,), in states with `features` (n, number)."""
        ...

    def subgoal_reached(self, features: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Return whether `goals` (n,) have been reached in states with `features` (n, number): (n,) bool."""
        ...


@runtime_checkable
class PlanDrawable(Protocol):
    """A task whose plans films can draw as lines through points."""

    def drawn_point(self, features: Numeric) -> Numeric:
        """Return the point (..., 3) in m that shows where features (..., number) are."""
        ...


@runtime_checkable
class Drawable(Protocol):
    """A task that changes or adds to the picture of its model."""

    shown_shares: ClassVar[Sequence[str]] = ()
    """Metrics in [0, 1] that films show in place of the score, because they tell more."""

    def picture(self, model: mujoco.MjModel) -> mujoco.MjModel:
        """Return the model to draw in place of the simulated `model`: any with the same joints."""
        return model

    def markers(self, data: mujoco.MjData) -> "Sequence[Marker]":
        """Return what is drawn beside the model's own shapes, given one environment's state."""
        return ()

    def value_markers(self, values: np.ndarray) -> "Sequence[Marker]":
        """Return how films show a controller's value of each action, (A,)."""
        return ()


class _Plain(Drawable):
    """The picture of a task that declares nothing about it: its model as it is."""


_PLAIN = _Plain()


def drawing(task: object) -> Drawable:
    """Return the task itself where it is `Drawable`, else what draws its model as it is."""
    return task if isinstance(task, Drawable) else _PLAIN
