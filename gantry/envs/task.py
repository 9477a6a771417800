"""What a new environment writes: a task, over a whole batch at once.

A task says which model it simulates, how episodes begin, what is observed, what is rewarded and when an episode ends.
It holds no simulation of its own: the simulator (`gantry.envs.simulator`) owns the batch and calls the task.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from mujoco.batch import Batch

from gantry.envs.disturbances import DisturbanceTarget
from gantry.envs.domain_randomization import PhysicalParameter
from gantry.envs.random_streams import RandomStreams
from gantry.envs.state import State

if TYPE_CHECKING:
    from gantry.envs.rendering.scene import Marker


class Task(ABC):
    """One world. `n` is the number of rows of the batch and `k` the number of rows being reset."""

    model_file: ClassVar[str]
    """The MJCF file in `gantry.assets`."""
    decimation: ClassVar[int] = 1
    """Simulation steps a control step."""
    motor_decimation: ClassVar[int] = 0
    """Simulation steps for which the motors' controls, and disturbances, stay as they are: fewer than `substeps` where
    the task's own controller works faster than its policy; 0 stands for `substeps`."""
    stage: ClassVar[mujoco.mjtStage] = mujoco.mjtStage.mjSTAGE_NONE
    """How far derived fields (site positions, sensors) are brought up to date after a step; positions and velocities
    always are."""
    outputs: ClassVar[Sequence[str]] = ()
    """The fields that the task reads of `State` and that MuJoCo computes: positions of sites, sensors, contacts."""
    physics: ClassVar[Mapping[str, PhysicalParameter]] = {}
    """The quantities that `set_physics` can set row by row, beside those that every task has."""
    disturbance_target: ClassVar[DisturbanceTarget | None] = None
    """What pushes and thrown balls are aimed at; None: nothing of this robot can be disturbed."""
    neutral: ClassVar[float] = 0.0
    """The control, in each column, that asks for nothing: with motor delay it arrives before an episode's first."""

    def __init_subclass__(cls) -> None:
        cls._stage = int(cls.stage)  # converting the enumeration at every step would cost as much as a small reward

    _stage: ClassVar[int] = 0
    observation_space: gymnasium.spaces.Space[Any]
    """Of one row."""
    action_space: gymnasium.spaces.Space[Any]
    """Of one row."""
    visible: slice = slice(None)
    """The columns of the features that the controller observes."""
    name: str = ""
    """Its class and options, as `make_task` builds it: tells the states of tasks of equal shapes apart."""

    def load_specification(self) -> mujoco.MjSpec:
        """Return the model's specification; a task's options may change it, and disturbances may add bodies."""
        with resources.as_file(resources.files("gantry.assets")) as folder:
            return mujoco.MjSpec.from_file(str(folder / self.model_file))

    def load_model(self) -> mujoco.MjModel:
        """Compile the model."""
        return self.load_specification().compile()

    def picture(self, model: mujoco.MjModel) -> mujoco.MjModel:
        """Return the model to draw in place of the simulated `model`: any with the same joints; by default itself."""
        return model

    def markers(self, data: mujoco.MjData) -> "Sequence[Marker]":
        """Return what is drawn beside the model's own shapes, given one row's state; by default nothing."""
        return ()

    def value_markers(self, values: np.ndarray) -> "Sequence[Marker]":
        """Return how films show what a controller thinks of each of its actions, (A,); by default not at all."""
        return ()

    def set_physics(self, batch: Batch, ids: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Write physical quantities, (k,) each, into the rows `ids` of the batch's expanded model fields."""
        raise ValueError(f"{type(self).__name__} has no physical parameters to set")

    @abstractmethod
    def reset(self, state: State, ids: np.ndarray, random: RandomStreams) -> None:
        """Write initial positions and velocities into the rows `ids` (k,), drawing from `random` (k streams)."""

    @abstractmethod
    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the actuator controls (n, nu) for valid actions (n, ...), within the actuators' range."""

    def advance(self, state: State, control: np.ndarray, rows: np.ndarray | None) -> None:
        """Simulate one control step of the rows in the mask `rows` (n,) bool, or of all for None.

        By default the control is applied throughout. A task whose motors follow a moving target, or whose controller
        works faster than its policy, does that here (in a loop over time, never over rows). What must last from step
        to step belongs in MuJoCo's state (`ctrl`, `userdata`), which saving and resetting know about.
        """
        state.ctrl[:] = control
        state.step(rows, self.decimation, self._stage)

    @abstractmethod
    def features(self, state: State) -> np.ndarray:
        """Return the features (n, number), float32: everything that reward and termination are functions of."""

    def observation(self, features: np.ndarray) -> Any:
        """Return what the controller sees of features (..., number), as new arrays; by default the visible columns."""
        return features[..., self.visible].copy()

    def planning_features(self, observations: np.ndarray) -> np.ndarray | None:
        """Return the features of observations (..., observation), for planners; None where these do not show them.

        As many columns as an observation has: the first of the features, and at least those that rewards and ends are
        functions of.
        """
        shows_all = self.visible == slice(None) and type(self).observation is Task.observation
        return observations if shows_all else None

    def drawn_point(self, features: Any) -> Any | None:
        """Return the point (..., 3) in m that shows in pictures where features (..., number) are; by default None."""
        return None

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is reported beside the reward, (...) each, such as `success` (bool); by default nothing."""
        return {}

    @abstractmethod
    def reward(self, features: Any, control: Any, next_features: Any) -> tuple[Any, dict[str, Any]]:
        """Return the reward (...) of transitions, and its named terms (...) each.

        A function of its arguments alone, (..., number) with any leading shape, for NumPy arrays and torch tensors
        alike, so that a planner scores imagined transitions with the code that scores simulated ones.
        """

    def terminated(self, next_features: Any) -> Any:
        """Return whether episodes are over for good, (...) bool; by default never."""
        return next_features[..., 0] > math.inf
