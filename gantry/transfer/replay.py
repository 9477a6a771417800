"""Logs replayed in simulation: segments of a log, simulated from any initial state with any physics, in one batch."""

from collections.abc import Sequence

import numpy as np
from mujoco.batch import Batch

from gantry.envs.batch import threads_for
from gantry.envs.capabilities import Randomizable, Replayable, declared_physics
from gantry.envs.domain_randomization import Physics
from gantry.envs.simulator import make_task
from gantry.envs.state import State
from gantry.errors import GantryError
from gantry.transfer.log import Log

DELAY = "motor_delay"
"""The quantity that is replayed from the log, not by the simulation."""
KEPT = 4
"""Batches of simulations that are kept, by their sizes."""


class Replay:
    """A log cut into segments of `steps` observations, as a task's simulation is to reproduce them.

    No observation belongs to two segments, so that the noise in one tells nothing of the noise in another.

    Args:
        log: the log.
        names: physical quantities that differ between simulations, `motor_delay` among them if it does, here any
            real number of control steps.
        steps: control steps of a segment.

    Raises:
        GantryError: a log of another robot, too short a log, or a task that cannot be placed where an observation says.

    Attributes:
        measured: (S, steps, observation) what was observed.
        initial: (S, nq + nv) positions and velocities that each segment's first observation shows.
    """

    def __init__(self, log: Log, names: Sequence[str], steps: int) -> None:
        self.task = make_task(log.env_id)
        if not isinstance(self.task, Replayable):
            raise GantryError(f"{type(self.task).__name__} cannot be replayed: its observations do not show its state")
        self._names = tuple(names)
        self._simulations: dict[int, tuple[State, Physics]] = {}
        self.model = self.task.load_model()
        _check_robot(log, self.task.observation_space.shape, self.task.action_space.shape)
        rate = 1.0 / (float(self.model.opt.timestep) * self.task.decimation)
        if not np.isclose(rate, log.rate, rtol=1e-3):
            raise GantryError(f"this log is at {log.rate:g} Hz, and {log.env_id} acts at {rate:g} Hz")
        starts = [
            start
            for episode in dict.fromkeys(log.episodes.tolist())
            for rows in [np.flatnonzero(log.episodes == episode)]
            for start in range(int(rows[0]), int(rows[-1]) + 2 - steps, steps)
        ]
        if len(starts) < 2:
            raise GantryError(f"this log is too short: its episodes hold {len(starts)} segments of {steps} steps")
        self._starts = np.array(starts)
        rows = self._starts[:, None] + np.arange(steps)
        self.measured = log.observations[rows].astype(np.float64)
        self._log, self._rows = log, rows
        self._controls = self.task.control(np.asarray(log.actions, np.float32))
        state, _ = self._simulation(len(starts))
        self.task.place(state, np.arange(len(starts)), self.measured[:, 0])
        self.initial = np.concatenate([state.qpos, state.qvel], axis=1)

    def simulate(self, segments: np.ndarray, physics: np.ndarray, initial: np.ndarray) -> np.ndarray:
        """Return what m simulations of segments would observe, (m, steps, observation), without noise.

        Args:
            segments: (m,) numbers of segments.
            physics: (m, quantities) values of the quantities, in the order of `names`.
            initial: (m, nq + nv) positions and velocities that each begins with.
        """
        count, task = len(segments), self.task
        state, quantities = self._simulation(count)
        everyone = np.arange(count)
        delay = np.zeros(count)
        for name, values in zip(self._names, physics.T, strict=True):
            if name == DELAY:
                delay = values
            else:
                quantities.values[name][:] = values
        quantities.write(everyone)
        assert isinstance(task, Replayable)
        state.batch.reset(everyone)
        task.place(state, everyone, self.measured[segments, 0])  # whatever belongs to a state beside these numbers
        positions = state.qpos.shape[1]
        state.qpos[:], state.qvel[:] = initial[:, :positions], initial[:, positions:]
        rows = self._rows[segments]
        predicted = [task.observation(task.features(state))]
        for step in range(rows.shape[1] - 1):
            task.advance(state, self._sent(rows[:, step], delay), None)
            predicted.append(task.observation(task.features(state)))
        return np.stack(predicted, axis=1)

    def _sent(self, rows: np.ndarray, delay: np.ndarray) -> np.ndarray:
        """Return the controls (m, columns) that arrive in rows (m,) of the log, `delay` (m,) steps late.

        A control that arrives within a step is mixed with the one before it, in proportion to their times.
        """
        earlier, later = self._sent_before(rows, np.floor(delay)), self._sent_before(rows, np.floor(delay) + 1)
        share = (delay % 1.0)[:, None]
        return np.asarray((1.0 - share) * earlier + share * later, np.float32)

    def _sent_before(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return the controls (m, columns) that were sent whole `steps` (m,) before rows (m,) of the log."""
        sent = np.maximum(rows - steps.astype(np.int64), 0)
        begun = (rows >= steps) & (self._log.episodes[sent] == self._log.episodes[rows])
        return np.where(begun[:, None], self._controls[sent], np.float32(self.task.neutral))

    def _simulation(self, count: int) -> tuple[State, Physics]:
        """Return as many simulations, with physics of their own."""
        if count not in self._simulations:
            batch = Batch(self.model, count, threads_for(count))
            task = self.task
            declared = declared_physics(task)
            given = {name: declared[name].default for name in self._names if name in declared and name != DELAY}
            writer = task if isinstance(task, Randomizable) else None
            neutral = np.full(self.model.nu, task.neutral)
            while len(self._simulations) >= KEPT:
                self._simulations.pop(next(iter(self._simulations)))
            self._simulations[count] = State(batch, task.outputs), Physics(writer, batch, given, declared, neutral)
        return self._simulations[count]


def _check_robot(log: Log, observed: tuple[int, ...] | None, acted: tuple[int, ...] | None) -> None:
    """Refuse a log whose numbers are not those of the environment that it names (GantryError)."""
    for what, found, space in (("observation", log.observations, observed), ("action", log.actions, acted)):
        width = int(np.prod(space or (1,)))
        if found.shape[1] != width:
            raise GantryError(
                f"this log is of another robot: {found.shape[1]} numbers in each {what}, and {log.env_id} has {width}"
            )
