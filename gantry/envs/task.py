"""What a new environment writes: a task, over a whole batch at once.

A task says which model it simulates, how episodes begin, what is observed, what is rewarded and when an episode ends.
It holds no simulation of its own: the simulator (`gantry.envs.simulator`) owns the batch and calls the task. What only
some tasks can is declared by the protocols of `gantry.envs.capabilities`. docs/new_task.md builds one step by step.
"""

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import ClassVar

import mujoco
import numpy as np

from gantry.envs.components import Component
from gantry.envs.domain_randomization import COMMON, PhysicalParameter
from gantry.envs.random_streams import RandomStreams
from gantry.envs.state import State
from gantry.errors import GantryError
from gantry.types import Numeric, Observation, Space


class Task(ABC):
    """A simulated world and what is to be done in it, for `n` environments at once.

    Required: `model_file`, `observation_space`, `action_space`, `reset`, `control`, `features` and `reward`.
    """

    model_file: ClassVar[str]
    """The MJCF file, in the folder of the module whose class names it, or in `gantry.assets`."""
    observation_space: Space
    """The space of one environment's observation."""
    action_space: Space
    """The space of one environment's action."""
    observation_components: Sequence[Component] = ()
    """Names, units and bounds of what is observed, in order (see `Component`)."""
    action_components: Sequence[Component] = ()
    """Names, units and bounds of the actions, in order (see `Component`)."""
    decimation: ClassVar[int] = 1
    """Physics steps per control step."""
    motor_decimation: ClassVar[int] = 0
    """Physics steps for which motor commands and disturbances hold: fewer than `decimation` where the task's own
    controller works faster than its policy; 0 stands for `decimation`."""
    neutral: ClassVar[float] = 0.0
    """The control, in each column, that asks for nothing: with motor delay it arrives before an episode's first."""
    outputs: ClassVar[Sequence[str]] = ()
    """The fields of `State` that the task reads and MuJoCo computes: positions of sites, sensors, contacts."""
    stage: ClassVar[mujoco.mjtStage] = mujoco.mjtStage.mjSTAGE_NONE
    """How far `outputs` are brought up to date after a step; positions and velocities always are."""
    visible: slice = slice(None)
    """The columns of the features that an observation consists of."""
    term_weights: ClassVar[Mapping[str, float]] = {}
    """Where the reward is a weighted sum: the weights that its terms are reported with, such as -0.5 per `bump`."""
    common_physics: ClassVar[Mapping[str, PhysicalParameter]] = COMMON
    """The quantities that every task can vary; a task narrows a range within which its time step is too long."""
    name: str = ""
    """The class and its options, as `make_task` fills it in: tells states of different tasks apart."""

    _stage: ClassVar[int] = 0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._stage = int(cls.stage)  # converting the enumeration at every step would cost as much as a small reward

    @abstractmethod
    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Write initial positions and velocities of the environments `env_ids` (k,), sampled from `random`.

        Before, MuJoCo has cleared their state. `random` holds k streams: `random.normal(3)` is (k, 3).
        """

    @abstractmethod
    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return actuator controls (n, nu), within the actuators' range, for valid actions (n, ...)."""

    @abstractmethod
    def features(self, state: State) -> np.ndarray:
        """Return the features (n, number), float32: all that reward and termination are functions of."""

    @abstractmethod
    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return the reward (...) of transitions, and its named terms (...) each.

        A function of its arguments alone, (..., number) with any leading shape, for NumPy arrays and torch tensors
        alike, so that a planner scores imagined transitions with the code that scores simulated ones.
        """

    def terminated(self, next_features: Numeric) -> Numeric:
        """Return whether episodes end in a terminal state, (...) bool; by default never."""
        return next_features[..., 0] > math.inf

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is reported beside the reward, (...) each, such as `success` (bool); by default nothing."""
        return {}

    def observation(self, features: np.ndarray) -> Observation:
        """Return observations of features (..., number), as new arrays; by default the columns `visible`."""
        return features[..., self.visible].copy()

    def advance(self, state: State, control: np.ndarray, mask: np.ndarray | None) -> None:
        """Simulate one control step of the environments in `mask` (n,) bool, or of all for None.

        By default the control is applied throughout. A task whose motors follow a moving target, or whose controller
        works faster than its policy, does that here (in a loop over time, never over environments). What must last
        from step to step belongs in MuJoCo's state (`ctrl`, `userdata`), which saving and resetting know about.
        """
        state.ctrl[:] = control
        state.step(mask, self.decimation, self._stage)

    def refine(self, substeps: int) -> None:
        """Take `substeps` physics steps in place of each, in this task alone, for a model whose steps are shorter."""
        finer = {"decimation": self.decimation * substeps, "motor_decimation": self.motor_decimation * substeps}
        vars(self).update(finer)

    def load_specification(self) -> mujoco.MjSpec:
        """Return the model's specification; a task's options may change it, and disturbances may add bodies.

        Raises:
            GantryError: there is no such file, or MuJoCo cannot read it.
        """
        own_folder = self._model_folder()
        with resources.as_file(resources.files("gantry.assets")) as assets:
            for folder in (own_folder, assets):
                path = folder / self.model_file
                if path.is_file():
                    try:
                        return mujoco.MjSpec.from_file(str(path))
                    except ValueError as error:
                        raise GantryError(f"{path}: {' '.join(str(error).split())}") from error
        kind = type(self).__name__
        raise GantryError(f"{kind} needs the model {self.model_file!r}, which is neither in {own_folder} nor in assets")

    def load_model(self) -> mujoco.MjModel:
        """Return the compiled model."""
        return self.load_specification().compile()

    @property
    def can_terminate(self) -> bool:
        """Whether episodes can end in a terminal state at all."""
        return type(self).terminated is not Task.terminated

    @property
    def observes_features(self) -> bool:
        """Whether an observation is all of the features, as they are."""
        return self.visible == slice(None) and type(self).observation is Task.observation

    def _model_folder(self) -> Path:
        """Return the folder of the module whose class sets `model_file`, or the current one for a notebook's."""
        owner = next(kind for kind in type(self).__mro__ if "model_file" in vars(kind))
        file = getattr(sys.modules.get(owner.__module__), "__file__", None)
        return Path(file).parent if file else Path.cwd()
