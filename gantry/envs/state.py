"""Live arrays of a batch of simulations, as tasks read and write them."""

from collections.abc import Callable, Sequence

import numpy as np
from mujoco.batch import Batch

from gantry.errors import GantryError


class State:
    """Live arrays over all rows of a batch: `state.qpos` is (n, nq), `state.ctrl` (n, nu), and so on.

    Any field that `mujoco.batch.Batch.bind` knows is an attribute: what belongs to the simulations' state always, and
    of what MuJoCo computes from it, the task's `outputs`.

    Args:
        batch: the simulations; tasks step them by `step`, so that disturbances act.
        outputs: computed fields to keep, such as `sensordata`.
        positions: columns of `qpos` to show, those of the task's own model; what disturbances add comes after.
        velocities: columns of `qvel` to show, likewise.
    """

    def __init__(
        self,
        batch: Batch,
        outputs: Sequence[str] = (),
        positions: int | None = None,
        velocities: int | None = None,
    ) -> None:
        self.batch = batch
        for name in outputs:
            setattr(self, name, batch.bind(name))
        self.qpos: np.ndarray = batch.bind("qpos")[:, :positions]
        self.qvel: np.ndarray = batch.bind("qvel")[:, :velocities]
        self.watcher: Callable[[], None] | None = None
        """Called by tasks with long control steps after each part of one, so that films show what lies between."""
        self.disturber: Callable[[np.ndarray | None], None] | None = None
        """Called before each part of a control step with the mask of the environments simulated, as in `step`."""

    def step(self, mask: np.ndarray | None, steps: int, stage: int = 0) -> None:
        """Simulate one part of a control step, under disturbances where there are any.

        Args:
            mask: (n,) bool, the environments to simulate; None for all.
            steps: physics steps, such as the task's `motor_decimation`.
            stage: how far derived fields are brought up to date afterwards.
        """
        if self.disturber is not None:
            self.disturber(mask)
        self.batch.step(mask, steps, stage)

    def __getattr__(self, name: str) -> np.ndarray:
        if name.startswith("__"):
            raise AttributeError(name)
        array = self.batch.bind(name)
        if not array.flags.writeable:  # MuJoCo fills it from the next call on: until then it reads zero
            raise GantryError(f"{name} is computed by MuJoCo: a task that reads it names it in its `outputs`")
        setattr(self, name, array)
        return array
