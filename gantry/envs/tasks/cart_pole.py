"""The cart-pole: a cart on a rail swings up and balances an unactuated pole.

Geometry, inertias, actuator, initial states and reward terms are those of dm_control's cart-pole (Tassa et al. 2018,
"DeepMind Control Suite"; after Barto, Sutton & Anderson 1983), so that published scores (0 to 1000) compare with ours.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import gymnasium
import numpy as np
from mujoco.batch import Batch

from gantry.envs.capabilities import Disturbable, PlanDrawable, Randomizable, Replayable, Shapeable
from gantry.envs.components import Component, box
from gantry.envs.disturbances import DisturbanceTarget
from gantry.envs.domain_randomization import COMMON, DELAY_FRACTION, PhysicalParameter
from gantry.envs.features import cos_sin
from gantry.envs.random_streams import RandomStreams
from gantry.envs.rewards import clip, product, tolerance
from gantry.envs.state import State
from gantry.envs.task import Task
from gantry.errors import GantryError
from gantry.types import Numeric

POLE_RADIUS = 0.045
"""Radius of the pole, a capsule (m)."""
CART_HALF_SIZES = (0.2, 0.15, 0.1)
"""Half the cart's sizes along x, y, z (m)."""

POLE_LENGTH = 1.0
"""Distance between the ends of the pole's axis, as in the model (m)."""
RAIL_HEIGHT = 1.0
"""Height of the pole's hinge above the floor (m)."""

LOWEST, HIGHEST = np.float32(-1.0), np.float32(1.0)
"""Range of the motor, as a share of its force; NumPy is faster with float32 than with Python's numbers."""

ENERGY_WEIGHT = 5.0
"""Potential (reward) per unit of energy that the pole is short of, or beyond, what it has when it stands upright."""
KINETIC = POLE_LENGTH / (3.0 * 9.81)
"""Kinetic energy of a thin pole per squared speed, over its weight times half its length (s²)."""

POSITION, COSINE, SINE, VELOCITY, ANGULAR_VELOCITY = range(5)
"""Columns of the features."""

FEATURES: Sequence[Component] = (
    Component("cart position", "m", -10.0, 10.0, note="±1.8 plus what the soft stops yield"),
    Component("cosine of the pole's angle", low=-1.0, high=1.0, note="1 = upright"),
    Component("sine of the pole's angle", low=-1.0, high=1.0),
    Component("cart velocity", "m/s", -300.0, 300.0, note="about ±8"),
    Component("pole angular velocity", "rad/s", -3000.0, 3000.0, note="about ±15"),
)
"""The features; no magnitude exceeds its bound, even with the lightest cart and pole that the physics accept."""
ACTIONS = {
    "continuous": (Component("force", "10 N", -1.0, 1.0, note="along the rail"),),
    "discrete": (Component("full force to the left"), Component("no force"), Component("full force to the right")),
}
"""The actions of each kind."""


def box_inertia(mass: np.ndarray, half_sizes: tuple[float, float, float]) -> np.ndarray:
    """Return the principal moments (k, 3) in kg m² of solid boxes of `mass` (k,) with the half-sizes given (m)."""
    x, y, z = half_sizes
    return mass[:, None] / 3.0 * np.array([y * y + z * z, x * x + z * z, x * x + y * y])


def capsule_inertia(mass: np.ndarray, radius: float, length: np.ndarray) -> np.ndarray:
    """Return the principal moments (k, 3) in kg m² of solid capsules about their centers, the axis along z.

    A cylinder of `length` (k,) and two half-spheres share `mass` (k,) by volume; the half-spheres' own moments are
    shifted from their centers of mass, 3/8 radius beyond the cylinder's ends.
    """
    cylinder = length / (length + radius * 4.0 / 3.0) * mass
    sphere = mass - cylinder
    axial = cylinder * radius**2 / 2 + sphere * radius**2 * 2 / 5
    transverse = cylinder * (radius**2 / 4 + length**2 / 12)
    transverse = transverse + sphere * (radius**2 * 2 / 5 + length**2 / 4 + length * radius * 3 / 8)
    return np.stack([transverse, transverse, axial], axis=1)


class CartPole(Task, Randomizable, Disturbable, PlanDrawable, Replayable, Shapeable):
    """Balance or swing up a pole on a cart.

    Observations are `FEATURES`, actions `ACTIONS`.

    Args:
        swing_up: start hanging (True) or near upright (False).
        sparse: reward 1 only while |x| ≤ 0.25 m and cos θ ≥ 0.995, else 0.
        actions: `continuous` or `discrete`.
        observe_velocity: False hides both velocities: a partially observed task.
    """

    model_file: ClassVar[str] = "cart_pole.xml"
    decimation: ClassVar[int] = 2
    common_physics: ClassVar[Mapping[str, PhysicalParameter]] = {**COMMON, "delay_fraction": DELAY_FRACTION}
    physics: ClassVar[Mapping[str, PhysicalParameter]] = {
        "pole_length": PhysicalParameter(1.0, 0.1, 4.0, "m", "length of the pole between the ends of its axis"),
        "pole_mass": PhysicalParameter(0.1, 1e-3, 10.0, "kg", "mass of the pole"),
        "cart_mass": PhysicalParameter(1.0, 0.1, 100.0, "kg", "mass of the cart"),
        "motor_sign": PhysicalParameter(
            1.0, -1.0, 1.0, "", "1, or -1 for a motor that pushes to the other side", choices=(-1.0, 1.0)
        ),
        "rail_friction": PhysicalParameter(0.0, 0.0, 10.0, "N", "dry friction between cart and rail"),
    }
    disturbance_target: ClassVar[DisturbanceTarget] = DisturbanceTarget(
        "pole", force=1.0, ball_mass=0.015, ball_radius=0.06, axes=(0,), aim=(0.0, 0.0, 0.7)
    )

    def __init__(
        self,
        swing_up: bool = True,
        sparse: bool = False,
        actions: Literal["continuous", "discrete"] = "continuous",
        observe_velocity: bool = True,
    ) -> None:
        if actions not in ("continuous", "discrete"):
            raise GantryError(f"actions must be 'continuous' or 'discrete', not {actions!r}")
        self.swing_up = swing_up
        self.sparse = sparse
        self.visible = slice(None) if observe_velocity else slice(VELOCITY)
        self.observation_components = FEATURES[self.visible]
        self.observation_space = box(self.observation_components)
        self.action_components = ACTIONS[actions]
        self._discrete = actions == "discrete"
        self.action_space = gymnasium.spaces.Discrete(3) if self._discrete else box(self.action_components)

    def set_physics(self, batch: Batch, env_ids: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Set masses, length, the motor's sign and the rail's friction, (k,) each, and what follows from them."""
        cart, pole = batch.model.body("cart").id, batch.model.body("pole").id
        geom = batch.model.geom("pole").id
        cart_mass, pole_mass, length = values["cart_mass"], values["pole_mass"], values["pole_length"]
        mass, inertia = batch.expand("body_mass"), batch.expand("body_inertia")
        mass[env_ids, cart] = cart_mass
        inertia[env_ids, cart] = box_inertia(cart_mass, CART_HALF_SIZES)
        mass[env_ids, pole] = pole_mass
        inertia[env_ids, pole] = capsule_inertia(pole_mass, POLE_RADIUS, length)
        batch.expand("body_ipos")[env_ids, pole, 2] = length / 2
        batch.expand("geom_pos")[env_ids, geom, 2] = length / 2
        batch.expand("geom_size")[env_ids, geom, 1] = length / 2
        batch.expand("geom_rbound")[env_ids, geom] = length / 2 + POLE_RADIUS
        batch.expand("geom_aabb")[env_ids, geom, 5] = length / 2 + POLE_RADIUS
        gain = batch.model.actuator_gainprm[:, 0]
        batch.expand("actuator_gainprm")[env_ids, :, 0] = gain * values["motor_sign"][:, None]
        batch.expand("dof_frictionloss")[env_ids, batch.model.joint("slider").dofadr[0]] = values["rail_friction"]

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Start near the bottom or near the top, almost at rest, as dm_control's cart-pole does."""
        if self.swing_up:
            position = 0.01 * random.normal(2)
            position[:, 1] += np.pi
        else:
            position = np.concatenate([random.uniform(-0.1, 0.1, 1), random.uniform(-0.034, 0.034, 1)], axis=1)
        state.qpos[env_ids] = position
        state.qvel[env_ids] = 0.01 * random.normal(2)

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the share of the motor's force, (n, 1) in [-1, 1]."""
        if self._discrete:
            return (actions[:, None] - 1).astype(np.float32)
        return clip(actions, LOWEST, HIGHEST)

    def features(self, state: State) -> np.ndarray:
        """Return x, cos θ, sin θ, ẋ, θ̇: (n, 5)."""
        qpos = state.qpos
        features = np.empty((len(qpos), 5), np.float32)
        features[:, POSITION] = qpos[:, 0]
        features[:, COSINE], features[:, SINE] = cos_sin(qpos[:, 1], np.float32)
        features[:, VELOCITY:] = state.qvel
        return features

    def place(self, state: State, env_ids: np.ndarray, observations: np.ndarray) -> None:
        """Put the cart and the pole where `observations` (k, 5) show them, with their velocities."""
        state.qpos[env_ids, 0] = observations[:, POSITION]
        state.qpos[env_ids, 1] = np.arctan2(observations[:, SINE], observations[:, COSINE])
        state.qvel[env_ids] = observations[:, VELOCITY:]

    def drawn_point(self, features: Numeric) -> Numeric:
        """Return the tip of a pole of the default length, (..., 3) in m."""
        x = features[..., POSITION] + POLE_LENGTH * features[..., SINE]
        return np.stack([x, np.zeros_like(x), RAIL_HEIGHT + POLE_LENGTH * features[..., COSINE]], axis=-1)

    def potential(self, features: Numeric) -> Numeric:
        """Return -5 |E - 1|, (...), for the energy E of a pole of the default length: -1 hanging, 1 upright at rest."""
        speed = features[..., ANGULAR_VELOCITY]
        return abs(speed * speed * KINETIC + features[..., COSINE] - 1.0) * -ENERGY_WEIGHT

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return the product of the terms below, in [0, 1].

        Dense: `upright` (1 + cos θ)/2, `centered` in [½, 1] (Gaussian in x, margin 2 m), `small_control` in [⅘, 1],
        `small_velocity` in [½, 1] (Gaussian in θ̇, margin 5 rad/s). Sparse: `centered` and `upright` are 0 or 1.
        """
        position = next_features[..., POSITION]
        cosine = next_features[..., COSINE]
        if self.sparse:
            terms = {"upright": tolerance(cosine, 0.995, 1.0), "centered": tolerance(position, -0.25, 0.25)}
            return product(terms), terms
        effort = tolerance(control[..., 0], margin=1.0, value_at_margin=0.0, sigmoid="quadratic")
        terms = {
            "upright": (cosine + 1.0) * 0.5,
            "centered": tolerance(position, margin=2.0) * 0.5 + 0.5,
            "small_control": effort * 0.2 + 0.8,
            "small_velocity": tolerance(next_features[..., ANGULAR_VELOCITY], margin=5.0) * 0.5 + 0.5,
        }
        return product(terms), terms
