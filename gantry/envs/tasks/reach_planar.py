"""The planar arm: two links on a table bring their fingertip to a target and hold it there.

Geometry, inertias, motors, initial states and the sparse reward are those of dm_control's reacher (Tassa et al. 2018,
"DeepMind Control Suite"), at two of its 20 ms steps a control step, as published results use it: 500 control steps
are its 20 s, and 1000 × the mean reward is its score. The dense reward is not dm_control's.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import mujoco
import numpy as np

from gantry.envs.capabilities import Disturbable, PlanDrawable, Replayable, Shapeable
from gantry.envs.components import Component, box
from gantry.envs.disturbances import DisturbanceTarget
from gantry.envs.domain_randomization import COMMON, PhysicalParameter
from gantry.envs.features import columns, cos_sin, earlier_than
from gantry.envs.random_streams import RandomStreams
from gantry.envs.rewards import clip, namespace, tolerance
from gantry.envs.state import State
from gantry.envs.task import Task
from gantry.errors import GantryError
from gantry.types import Numeric, Observation

UPPER_LENGTH = 0.12
"""Distance from the shoulder to the wrist (m)."""
LOWER_LENGTH = 0.12
"""Distance from the wrist to the center of the fingertip (m)."""
FINGERTIP_RADIUS = 0.01
"""Radius of the fingertip, a ball (m)."""
TARGET_RADII = {"easy": 0.05, "hard": 0.015}
"""Radius of the target, a ball (m)."""
TARGET_RING = (0.05, 0.20)
"""Smallest and largest distance of a target from the shoulder (m)."""
WRIST_RANGE = np.radians(160.0)
"""Range of the wrist to either side (rad)."""

ABOVE_TABLE = 0.02
"""Height at which pictures draw where the fingertip goes (m)."""

FAR, CLOSE = 0.4, 0.05
"""Distances (m) at which the reward's two terms have fallen to a tenth."""

DISTANCE_WEIGHT = 50.0
"""Potential (reward) per m of distance to the target."""

COSINE, SINE, WRIST, TO_TARGET_X, TO_TARGET_Y, SHOULDER_VELOCITY, WRIST_VELOCITY = range(7)
"""Columns of the features."""

FEATURES = (
    Component("cosine of the shoulder's angle", low=-1.0, high=1.0, note="1 = along x"),
    Component("sine of the shoulder's angle", low=-1.0, high=1.0),
    Component("wrist angle", "rad", -4.0, 4.0, note="0 = stretched; ±2.79 plus what the soft stops yield"),
    Component("from the fingertip to the target's center, x", "m", -0.5, 0.5, note="±0.44"),
    Component("from the fingertip to the target's center, y", "m", -0.5, 0.5, note="±0.44"),
    Component("shoulder angular velocity", "rad/s", -100.0, 100.0, note="about ±10"),
    Component("wrist angular velocity", "rad/s", -100.0, 100.0, note="about ±20"),
)
"""The features, all of which are observed."""
ACTIONS = (Component("shoulder torque", "0.05 N m", -1.0, 1.0), Component("wrist torque", "0.05 N m", -1.0, 1.0))


class ReachPlanar(Task, Disturbable, PlanDrawable, Replayable, Shapeable):
    """Bring the fingertip of a two-link arm into the target, which is sampled anew for every episode.

    Observations are `FEATURES`, actions `ACTIONS`. Metric `success`: the fingertip touches the target, which is what
    the sparse reward pays for.

    Args:
        target: `easy` (a ball of 5 cm radius) or `hard` (1.5 cm).
        sparse: dm_control's reward: 1 while the fingertip touches the target, else 0.
        target_visible: seconds from an episode's beginning after which the target is hidden: its columns are 0 then,
            and what was seen must be remembered; None: always visible.
    """

    model_file: ClassVar[str] = "reach_planar.xml"
    decimation: ClassVar[int] = 2
    observation_components, action_components = FEATURES, ACTIONS
    observation_space, action_space = box(FEATURES), box(ACTIONS)
    # Faster than about 75 rad/s, the arm turns so far in a time step that its simulation diverges.
    common_physics: ClassVar[Mapping[str, PhysicalParameter]] = {
        **COMMON,
        "damping": dataclasses.replace(COMMON["damping"], low=0.5),
        "gear": dataclasses.replace(COMMON["gear"], high=4.0),
    }
    disturbance_target: ClassVar[DisturbanceTarget] = DisturbanceTarget(
        "lower", 0.3, ball_mass=0.01, ball_radius=0.012, reach=0.24
    )

    def __init__(
        self, target: Literal["easy", "hard"] = "easy", sparse: bool = False, target_visible: float | None = None
    ) -> None:
        if target not in TARGET_RADII:
            raise GantryError(f"target must be 'easy' or 'hard', not {target!r}")
        if target_visible is not None and not target_visible > 0.0:
            raise GantryError(f"target_visible must be above 0 s, or None for always, not {target_visible!r}")
        self.target_visible = target_visible
        self.target_radius = TARGET_RADII[target]
        self.sparse = sparse
        self.touching = self.target_radius + FINGERTIP_RADIUS
        """Distance between the centers of fingertip and target below which they touch (m)."""

    def load_specification(self) -> mujoco.MjSpec:
        """Return the model with a target of the size asked for."""
        specification = super().load_specification()
        specification.geom("target").size[0] = self.target_radius
        return specification

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Start at rest in any pose, with the target anywhere in its ring."""
        state.qpos[env_ids, 0] = random.uniform(-np.pi, np.pi, 1)[:, 0]
        state.qpos[env_ids, 1] = random.uniform(-WRIST_RANGE, WRIST_RANGE, 1)[:, 0]
        bearing = random.uniform(0.0, 2 * np.pi, 1)[:, 0]
        radius = random.uniform(*TARGET_RING, 1)[:, 0]
        state.mocap_pos[env_ids, 0, 0] = radius * np.cos(bearing)
        state.mocap_pos[env_ids, 0, 1] = radius * np.sin(bearing)

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the shares of the motors' torques, (n, 2) in [-1, 1]."""
        return clip(actions, -1.0, 1.0)

    def features(self, state: State) -> np.ndarray:
        """Return `FEATURES`, (n, 7); if the target hides, also whether it shows, 0 or 1."""
        shoulder, wrist = state.qpos[:, 0], state.qpos[:, 1]
        target = state.mocap_pos[:, 0]
        cosine, sine = cos_sin(shoulder)
        forearm_cosine, forearm_sine = cos_sin(shoulder + wrist)
        to_target_x = target[:, 0] - (UPPER_LENGTH * cosine + LOWER_LENGTH * forearm_cosine)
        to_target_y = target[:, 1] - (UPPER_LENGTH * sine + LOWER_LENGTH * forearm_sine)
        shown = [] if self.target_visible is None else [earlier_than(self.target_visible, state.time)]
        return columns(cosine, sine, wrist, to_target_x, to_target_y, state.qvel, *shown)

    def observation(self, features: np.ndarray) -> Observation:
        """Return the features, without the target where it is hidden."""
        if self.target_visible is None:
            return super().observation(features)
        observed = features[..., : len(FEATURES)].copy()
        target = slice(TO_TARGET_X, TO_TARGET_Y + 1)
        observed[..., target] = np.where(features[..., -1:] > 0, observed[..., target], 0.0)
        return observed

    @property
    def observes_features(self) -> bool:
        """Whether an observation is all of the features, as they are."""
        return self.target_visible is None

    def place(self, state: State, env_ids: np.ndarray, observations: np.ndarray) -> None:
        """Put the arm and the target where `observations` (k, 7) show them, with the joints' velocities."""
        shoulder, wrist = np.arctan2(observations[:, SINE], observations[:, COSINE]), observations[:, WRIST]
        state.qpos[env_ids, 0], state.qpos[env_ids, 1] = shoulder, wrist
        state.qvel[env_ids] = observations[:, SHOULDER_VELOCITY:]
        fingertip_x = UPPER_LENGTH * np.cos(shoulder) + LOWER_LENGTH * np.cos(shoulder + wrist)
        fingertip_y = UPPER_LENGTH * np.sin(shoulder) + LOWER_LENGTH * np.sin(shoulder + wrist)
        state.mocap_pos[env_ids, 0, 0] = fingertip_x + observations[:, TO_TARGET_X]
        state.mocap_pos[env_ids, 0, 1] = fingertip_y + observations[:, TO_TARGET_Y]

    def drawn_point(self, features: Numeric) -> Numeric:
        """Return where the fingertip is, (..., 3) in m, above the table."""
        cosine, sine, wrist = features[..., COSINE], features[..., SINE], features[..., WRIST]
        x = (UPPER_LENGTH + LOWER_LENGTH * np.cos(wrist)) * cosine - LOWER_LENGTH * np.sin(wrist) * sine
        y = (UPPER_LENGTH + LOWER_LENGTH * np.cos(wrist)) * sine + LOWER_LENGTH * np.sin(wrist) * cosine
        return np.stack([x, y, np.full_like(x, ABOVE_TABLE)], axis=-1)

    def distance(self, features: Numeric) -> Numeric:
        """Return the distance between the centers of fingertip and target, (...) in m."""
        x, y = features[..., TO_TARGET_X], features[..., TO_TARGET_Y]
        return namespace(x).sqrt(x * x + y * y)

    def potential(self, features: Numeric) -> Numeric:
        """Return -50 per m of distance to the target, (...)."""
        return self.distance(features) * -DISTANCE_WEIGHT

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return `success` (bool): the fingertip touches the target."""
        return {"success": self.distance(features) <= self.touching}

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return the mean of the terms below, in [0, 1], which is 1 only at the center of the target.

        Dense: `far` and `close`, Gaussians in the distance with margins 0.4 m and 0.05 m. Sparse: `touching`, 0 or 1.
        """
        distance = self.distance(next_features)
        if self.sparse:
            touching = tolerance(distance, 0.0, self.touching)
            return touching, {"touching": touching}
        terms = {"far": tolerance(distance, margin=FAR), "close": tolerance(distance, margin=CLOSE)}
        return (terms["far"] + terms["close"]) * 0.5, terms
