"""Disturbances from outside: random pushes, and balls thrown at the robot as real bodies with real contacts.

Time is cut into windows, and each window of each row's episode holds one disturbance, whose moment, direction and
strength are drawn from a stream of (seed, episode, window). So nothing but MuJoCo's own state has to be saved.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import mujoco
import numpy as np
from mujoco.batch import Batch

from gantry.envs.randomness import RandomStreams
from gantry.errors import GantryError

Kind = Literal["pushes", "balls"]

DISTURBANCE_STREAM = 1_000_003
"""Counter that keeps these draws apart from all others."""

WINDOW_SECONDS = 2.0
PUSH_SECONDS = 0.1
FLIGHT_SECONDS = 0.4
"""From throw to hit."""
THROW_DISTANCE = 1.2
"""Where a ball starts: so many times the target's reach away from it (see `Target.reach`)."""
BALLS = 3
"""Balls of each row, thrown in turn; the others lie where they came to rest."""
BALL_BIT = 4
"""The collision bit of what a ball hits; none of our models uses it otherwise."""


@dataclass(frozen=True)
class Target:
    """What of a robot is disturbed, and how hard."""

    body: str
    """The body that is pushed, and aimed at."""
    force: float
    """The strongest push (N)."""
    ball_mass: float
    """(kg)."""
    ball_radius: float
    """(m)."""
    reach: float = 1.0
    """The robot's size (m), from which the distance of a throw follows."""
    axes: tuple[int, ...] = (0, 1)
    """World axes along which pushes and throws go."""
    aim: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """The point aimed at, in the body's frame (m)."""


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of disturbance with a GantryError."""
    if kind not in get_args(Kind):
        raise GantryError(f"disturb must be one of {', '.join(get_args(Kind))}, not {kind!r}")


def add_balls(specification: mujoco.MjSpec, target: Target) -> None:
    """Add BALLS balls to a model, after all that it holds, so that no index of its own changes.

    They collide with everything that moves and with the floor, and with each other not at all. Where the model has
    contacts switched off, they are switched on for the balls alone.
    """
    contacts_off = bool(specification.option.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT)
    if contacts_off:
        specification.option.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    for geom in specification.geoms:
        solid = contacts_off or geom.contype or geom.conaffinity
        if contacts_off:
            geom.contype = geom.conaffinity = 0
        if solid and (geom.parent.name != "world" or geom.type == mujoco.mjtGeom.mjGEOM_PLANE):
            geom.conaffinity |= BALL_BIT
    radius = target.ball_radius
    for index in range(BALLS):
        ball = specification.worldbody.add_body(
            name=f"ball{index}", pos=[target.reach * (2.0 + index), 4.0 * target.reach, radius]
        )
        ball.add_freejoint(name=f"ball{index}")
        ball.add_geom(
            name=f"ball{index}", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[radius, 0, 0], mass=target.ball_mass,
            contype=BALL_BIT, conaffinity=0, rgba=[0.85, 0.25, 0.2, 1.0], condim=3, solref=[0.02, 0.6],
        )  # fmt: skip


class Disturbance:
    """Pushes or balls for all rows of a batch.

    Args:
        kind: pushes or balls; balls must have been added to the model.
        target: what is disturbed.
        model: the compiled model.
        control_timestep: seconds of a control step.
    """

    def __init__(self, kind: Kind, target: Target, model: mujoco.MjModel, control_timestep: float) -> None:
        self.kind, self.target = kind, target
        self._body = model.body(target.body).id
        self._window = max(2, round(WINDOW_SECONDS / control_timestep))
        self._push_steps = max(1, round(PUSH_SECONDS / control_timestep))
        if kind == "balls":
            self._first_ball = model.joint("ball0").qposadr[0], model.joint("ball0").dofadr[0]

    def apply(
        self,
        batch: Batch,
        seeds: np.ndarray,
        episodes: np.ndarray,
        elapsed: np.ndarray,
    ) -> None:
        """Disturb the coming control step.

        Args:
            batch: all rows.
            seeds: (n,) of the rows.
            episodes: (n,) of the rows.
            elapsed: (n,) control steps since each row's episode began.
        """
        window, step = elapsed // self._window, elapsed % self._window
        draws = RandomStreams(seeds, episodes, np.full(len(seeds), DISTURBANCE_STREAM), window)
        start = draws.integers(self._window - self._push_steps, 1)[:, 0]
        direction = self._directions(draws)
        strength = draws.uniform(0.3, 1.0, 1)
        if self.kind == "pushes":
            pushed = (step >= start) & (step < start + self._push_steps)
            force = batch.bind("xfrc_applied")
            force[:, self._body, :3] = np.where(pushed[:, None], self.target.force * strength * direction, 0.0)
            return
        rows = np.flatnonzero(step == start)
        if len(rows):
            self._throw(batch, rows, window[rows] % BALLS, self._aim(batch, rows), direction[rows])

    def _aim(self, batch: Batch, rows: np.ndarray) -> np.ndarray:
        """Return where the point aimed at is now in the rows (k,): (k, 3), m."""
        places, turns = batch.bind("xpos"), batch.bind("xmat")
        # After a step these lag behind the state, after a reset or a restored state they are another one's.
        batch.forward(rows, mujoco.mjtStage.mjSTAGE_POS)
        return places[rows, self._body] + turns[rows, self._body].reshape(-1, 3, 3) @ np.array(self.target.aim)

    def _directions(self, draws: RandomStreams) -> np.ndarray:
        """Draw unit vectors (n, 3) along the target's axes."""
        angle = draws.uniform(0.0, 2.0 * np.pi, 1)[:, 0]
        directions = np.zeros((len(angle), 3))
        if len(self.target.axes) == 1:
            directions[:, self.target.axes[0]] = np.where(angle < np.pi, 1.0, -1.0)
        else:
            directions[:, self.target.axes[0]] = np.cos(angle)
            directions[:, self.target.axes[1]] = np.sin(angle)
        return directions

    def _throw(
        self,
        batch: Batch,
        rows: np.ndarray,
        ball: np.ndarray,
        positions: np.ndarray,
        direction: np.ndarray,
    ) -> None:
        """Put each row's ball (k,) on a parabola that meets the target's present position after FLIGHT_SECONDS."""
        away = THROW_DISTANCE * self.target.reach + 2.0 * self.target.ball_radius
        start = positions + away * direction + [0.0, 0.0, 0.1 * self.target.reach]
        start[:, 2] = np.maximum(start[:, 2], 2.0 * self.target.ball_radius)
        velocity = (positions - start) / FLIGHT_SECONDS
        gravity = batch.expanded("opt.gravity")
        gravity = batch.model.opt.gravity if gravity is None else gravity[rows]
        # The integrator moves by the velocity at a step's end, as if gravity had pulled for one step longer.
        velocity -= 0.5 * (FLIGHT_SECONDS + batch.model.opt.timestep) * gravity
        qpos, qvel = batch.bind("qpos"), batch.bind("qvel")
        position_columns = self._first_ball[0] + 7 * ball[:, None]
        velocity_columns = self._first_ball[1] + 6 * ball[:, None]
        qpos[rows[:, None], position_columns + np.arange(3)] = start
        qpos[rows[:, None], position_columns + np.arange(3, 7)] = [1.0, 0.0, 0.0, 0.0]
        qvel[rows[:, None], velocity_columns + np.arange(6)] = np.concatenate([velocity, np.zeros_like(velocity)], 1)
