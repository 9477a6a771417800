"""Disturbances from outside: random pushes, and balls thrown at the robot as real bodies with real contacts.

Simulated time is cut into windows, and each window of each episode holds one disturbance, whose moment, direction and
strength are sampled from a stream of (seed, episode, window). So nothing but MuJoCo's own state, to which
time belongs, has to be saved.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import mujoco
import numpy as np
from mujoco.batch import Batch

from gantry.envs.random_streams import RandomStreams
from gantry.errors import GantryError

Kind = Literal["pushes", "balls"]

DISTURBANCE_STREAM = 1_000_003
"""Counter that keeps these samples apart from all others."""

WINDOW_SECONDS = 2.0
PUSH_SECONDS = 0.1
FLIGHT_SECONDS = 0.4
"""Time from throw to hit (s)."""
THROW_DISTANCE = 1.2
"""Distance at which a ball starts, as a multiple of the target's reach (see `DisturbanceTarget.reach`)."""
BALLS = 3
"""Balls of each environment, thrown in turn; the others lie where they came to rest."""
BALL_BIT = 4
"""The collision bit of what a ball hits; no shipped model uses it otherwise."""
HIDDEN = 4
"""Geom group of what is hit but not drawn."""


@dataclass(frozen=True)
class DisturbanceTarget:
    """What of a robot is disturbed, and how strongly."""

    body: str
    """The body that is pushed and aimed at."""
    force: float
    """The strongest push (N)."""
    ball_mass: float
    """Mass of a ball (kg)."""
    ball_radius: float
    """Radius of a ball (m)."""
    reach: float = 1.0
    """The robot's size (m), from which the distance of a throw follows."""
    axes: tuple[int, ...] = (0, 1)
    """World axes along which pushes and throws go."""
    aim: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """The point aimed at, in the body's frame (m)."""
    rise: float = 0.1
    """How far above the point aimed at balls start, over the target's reach."""
    shell: tuple[float, float] | None = None
    """Radius and height (m) of an upright cylinder that balls hit in place of the body's own shapes, whose touch
    sensors therefore feel no balls."""
    obstacles: bool = False
    """Whether balls also hit what is solid and never moves, such as walls."""


def check_kind(kind: str) -> None:
    """Refuse an unknown kind of disturbance with a GantryError."""
    if kind not in get_args(Kind):
        raise GantryError(f"disturb must be one of {', '.join(get_args(Kind))}, not {kind!r}")


def add_balls(specification: mujoco.MjSpec, target: DisturbanceTarget) -> None:
    """Add BALLS balls to a model, after all that it holds, so that no index of its own changes.

    They collide with everything that moves, with the floor and, if the target says so, with obstacles; with each other
    not at all. Where the model has no contacts, no gravity or no floor, there are some for the balls alone.
    """
    contacts_off = bool(specification.option.disableflags & mujoco.mjtDisableBit.mjDSBL_CONTACT)
    if contacts_off:
        specification.option.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_CONTACT)
    has_floor = False
    for geom in specification.geoms:
        solid = contacts_off or geom.contype or geom.conaffinity
        if contacts_off:
            geom.contype = geom.conaffinity = 0
        floor = geom.type == mujoco.mjtGeom.mjGEOM_PLANE
        has_floor |= floor
        if geom.parent.name == "world":
            hit = floor or target.obstacles
        else:
            hit = target.shell is None or geom.parent.name != target.body
        if solid and hit:
            geom.conaffinity |= BALL_BIT
    if target.shell is not None:
        radius, height = target.shell
        shell = specification.body(target.body).add_body(name="shell", pos=[0, 0, height / 2])
        shell.add_geom(
            name="shell", type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[radius, height / 2, 0], mass=0,
            contype=0, conaffinity=BALL_BIT, group=HIDDEN,
        )  # fmt: skip
    if specification.option.disableflags & mujoco.mjtDisableBit.mjDSBL_GRAVITY:
        specification.option.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_GRAVITY)
        for body in specification.bodies:
            body.gravcomp = 1.0
    if not has_floor:
        ground = specification.worldbody.add_body(name="ground")
        ground.add_geom(
            name="ground", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0, 0, 1], contype=0, conaffinity=BALL_BIT,
            group=HIDDEN,
        )  # fmt: skip
    radius = target.ball_radius
    for index in range(BALLS):
        ball = specification.worldbody.add_body(
            name=f"ball{index}", pos=[-target.reach * (2.0 + index), 4.0 * target.reach, radius]
        )
        ball.add_freejoint(name=f"ball{index}")
        ball.add_geom(
            name=f"ball{index}", type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[radius, 0, 0], mass=target.ball_mass,
            contype=BALL_BIT, conaffinity=0, rgba=[0.85, 0.25, 0.2, 1.0], condim=3, solref=[0.02, 0.6],
        )  # fmt: skip


def has_balls(model: mujoco.MjModel) -> bool:
    """Return whether `add_balls` has added balls to a model."""
    return mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, "ball0") >= 0


class Disturbance:
    """Pushes or balls for all environments of a batch.

    Args:
        kind: pushes or balls; balls must have been added to the model.
        target: what is disturbed.
        model: the compiled model.
        seconds: simulated time between two calls of `apply` for an environment.
    """

    def __init__(self, kind: Kind, target: DisturbanceTarget, model: mujoco.MjModel, seconds: float) -> None:
        self.kind, self.target = kind, target
        self._body = model.body(target.body).id
        self._seconds = seconds
        self._window = max(2, round(WINDOW_SECONDS / seconds))
        self._push_steps = max(1, round(PUSH_SECONDS / seconds))
        if kind == "balls":
            self._first_ball = model.joint("ball0").qposadr[0], model.joint("ball0").dofadr[0]

    def apply(self, batch: Batch, mask: np.ndarray | None, seeds: np.ndarray, episodes: np.ndarray) -> None:
        """Set the forces, or throw the balls, of the environments whose moment is now.

        Args:
            batch: the simulations.
            mask: (n,) bool, the environments about to be simulated; None for all.
            seeds: (n,) seeds.
            episodes: (n,) episode numbers.
        """
        elapsed = np.rint(batch.bind("time") / self._seconds).astype(np.int64)
        window, step = elapsed // self._window, elapsed % self._window
        draws = RandomStreams(seeds, episodes, np.full(len(seeds), DISTURBANCE_STREAM), window)
        start = draws.integers(self._window - self._push_steps, 1)[:, 0]
        direction = self._directions(draws)
        strength = draws.uniform(0.3, 1.0, 1)
        chosen = np.ones(len(seeds), bool) if mask is None else mask
        if self.kind == "pushes":
            pushed = (step >= start) & (step < start + self._push_steps)
            force = np.where(pushed[:, None], self.target.force * strength * direction, 0.0)
            batch.bind("xfrc_applied")[chosen, self._body, :3] = force[chosen]
            return
        due = np.flatnonzero(chosen & (step == start))
        if len(due):
            self.throw(batch, due, window[due] % BALLS, direction[due])

    def _aim(self, batch: Batch, env_ids: np.ndarray) -> np.ndarray:
        """Return the current position of the point aimed at in the environments (k,): (k, 3), m."""
        places, turns = batch.bind("xpos"), batch.bind("xmat")
        # After a step these lag behind the state, after a reset or a restored state they are another one's.
        batch.forward(env_ids, mujoco.mjtStage.mjSTAGE_POS)
        return places[env_ids, self._body] + turns[env_ids, self._body].reshape(-1, 3, 3) @ np.array(self.target.aim)

    def _directions(self, draws: RandomStreams) -> np.ndarray:
        """Sample unit vectors (n, 3) along the target's axes."""
        angle = draws.uniform(0.0, 2.0 * np.pi, 1)[:, 0]
        directions = np.zeros((len(angle), 3))
        if len(self.target.axes) == 1:
            directions[:, self.target.axes[0]] = np.where(angle < np.pi, 1.0, -1.0)
        else:
            directions[:, self.target.axes[0]] = np.cos(angle)
            directions[:, self.target.axes[1]] = np.sin(angle)
        return directions

    def throw(self, batch: Batch, env_ids: np.ndarray, ball: np.ndarray, direction: np.ndarray) -> None:
        """Put a ball of each environment on a parabola that meets its target's position after FLIGHT_SECONDS.

        Args:
            batch: the simulations.
            env_ids: (k,) environments.
            ball: (k,) the ball of each, from 0.
            direction: (k, 3) unit vectors from the target towards where the ball starts.
        """
        positions = self._aim(batch, env_ids)
        away = THROW_DISTANCE * self.target.reach + 2.0 * self.target.ball_radius
        start = positions + away * direction + [0.0, 0.0, self.target.rise * self.target.reach]
        start[:, 2] = np.maximum(start[:, 2], 2.0 * self.target.ball_radius)
        velocity = (positions - start) / FLIGHT_SECONDS
        gravity = batch.expanded("opt.gravity")
        gravity = batch.model.opt.gravity if gravity is None else gravity[env_ids]
        # The integrator moves by the velocity at a step's end, as if gravity had pulled for one step longer.
        velocity -= 0.5 * (FLIGHT_SECONDS + batch.model.opt.timestep) * gravity
        qpos, qvel = batch.bind("qpos"), batch.bind("qvel")
        position_columns = self._first_ball[0] + 7 * ball[:, None]
        velocity_columns = self._first_ball[1] + 6 * ball[:, None]
        qpos[env_ids[:, None], position_columns + np.arange(3)] = start
        qpos[env_ids[:, None], position_columns + np.arange(3, 7)] = [1.0, 0.0, 0.0, 0.0]
        qvel[env_ids[:, None], velocity_columns + np.arange(6)] = np.concatenate([velocity, np.zeros_like(velocity)], 1)
