"""The reaching arm: seven torque-limited joints bring a fingertip to a target in space and hold it there.

The arm is modelled on the Franka Emika Panda. Facts taken from its maker's published interface specification ("Robot
and interface specifications", Franka Control Interface documentation): the Denavit-Hartenberg parameters, the joints'
ranges, speed limits (2.175 rad/s for joints 1-4, 2.61 rad/s for 5-7) and torque limits (87 N m and 12 N m), and a hand
whose tip is 0.1034 m beyond the flange. Link masses: Gaz, Cognetti, Oliva, Robuffo Giordano & De Luca 2019, "Dynamic
Identification of the Franka Emika Panda Robot". The links' shapes, hence their inertias, the rotors' inertias and the
drives' gains are Gantry's own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import mujoco
import numpy as np

from gantry.envs.capabilities import Disturbable, GoalConditioned, PlanDrawable, Shapeable
from gantry.envs.components import Component, box, dict_space
from gantry.envs.disturbances import DisturbanceTarget
from gantry.envs.features import earlier_than
from gantry.envs.random_streams import RandomStreams
from gantry.envs.rewards import clip, length, squared_length, tolerance
from gantry.envs.state import State
from gantry.envs.task import Task
from gantry.errors import GantryError
from gantry.types import Numeric, Observation

JOINTS = 7
LOWEST = np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973])
HIGHEST = np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973])
"""The joints' ranges (rad)."""
RANGES = HIGHEST - LOWEST
"""Widths of the joints' ranges (rad)."""
SPEED_LIMITS = np.array([2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])
"""Speeds at which a joint's drag equals its drive's largest torque (rad/s)."""
TORQUE_LIMITS = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])
"""The drives' largest torques, gravity compensation included (N m)."""

SHOULDER_HEIGHT, UPPER_ARM, FOREARM, FLANGE, FINGER = 0.333, 0.316, 0.384, 0.107, 0.1034
"""Offsets along the joints' axes (m)."""
ELBOW_OFFSET, WRIST_OFFSET = 0.0825, 0.088
"""Offsets across the joints' axes (m)."""

HOME = np.array([0.0, -np.pi / 4, 0.0, -3 * np.pi / 4, 0.0, np.pi / 2, np.pi / 4])
"""The pose around which episodes start (rad)."""
START_SPREAD = 0.1
"""Largest distance of a joint from `HOME` at the start (rad)."""

INCREMENTS = 0.8 * SPEED_LIMITS * 0.02
"""Distance by which an action of 1 moves the servos' setpoints in a control step of 20 ms (rad)."""
STIFFNESS = np.array([2000.0] * 4 + [300.0] * 3)
"""The servos' torque per rad between setpoint and joint (N m/rad), as in the model."""
DAMPING_TIME = np.float32(0.05)
"""The servos' damping torque per rad/s of the joint, over their stiffness (s), as in the model."""
SHARE_PER_RADIAN = (STIFFNESS / TORQUE_LIMITS).astype(np.float32)
"""The stiffness in shares of the torque limits (1/rad)."""
MAX_LEAD = 0.25
"""Largest distance of a servo's setpoint from its joint (rad), so that a blocked arm does not wind up."""

SUCCESS_DISTANCE = 0.02
"""Within this distance of the target the fingertip has reached it (m)."""
TARGET_TRIES = 24
"""Poses sampled for a target before the home pose is taken: nine in ten are collision-free, so never in practice."""

POSITIONS = int(mujoco.mjtStage.mjSTAGE_POS)

FAR, NEAR, CLOSE = 1.0, 0.25, 0.05
"""Distances (m) at which the reward's three terms have fallen to a tenth."""
DISTANCE_WEIGHT = 20.0
"""Potential (reward) per m of distance to the target."""
BRISK = 1.0
"""Joint speed (rad/s, root mean square) at which the term `steady` has lost nine tenths of its range."""

FEATURES = (
    Component("joint positions", "rad", -4.0, 4.0, count=7, note="the joints' ranges"),
    Component("joint velocities", "rad/s", -100.0, 100.0, count=7, note="about ±3"),
    Component("from the fingertip to the target, x y z", "m", -3.0, 3.0, count=3, note="about ±2"),
    Component("target from the base, x y z", "m", -3.0, 3.0, count=3, note="about ±1"),
    Component("torques the servos ask for", "share of the limit", -200.0, 200.0, count=7, note="about ±3"),
)
"""The features; with torque control there are no servos, and the last ones are left out."""
GOAL_OBSERVATION = (0, 1, 4)
"""Which of `FEATURES` are in the entry `observation` of `ReachGoal`."""
ACTIONS = {
    "position": tuple(
        Component(f"joint {joint}, increment of the setpoint", "0.0348 rad" if joint <= 4 else "0.0418 rad", -1.0, 1.0)
        for joint in range(1, 8)
    ),
    "torque": tuple(
        Component(f"joint {joint}, torque", "87 N m" if joint <= 4 else "12 N m", -1.0, 1.0) for joint in range(1, 8)
    ),
}
"""The actions for each kind of control."""


def fingertip(positions: np.ndarray) -> np.ndarray:
    """Return fingertip positions (n, 3) in m for joint positions (n, 7) in rad, in closed form and their precision.

    From the tip to the base, each joint turns the point about its z axis, as a complex number x + iy, and hands it to
    the frame below; the last joint's axis runs through the tip, which it therefore does not move.
    """
    angles = positions.T[:6].copy()  # contiguous, so that the bits do not depend on how many there are
    turn = np.empty(angles.shape, np.result_type(angles, np.complex64))
    np.cos(angles, out=turn.real)
    np.sin(angles, out=turn.imag)
    wrist = turn[5] * (WRIST_OFFSET - 1j * (FLANGE + FINGER))  # x and z in frame 5, along the forearm
    twisted = turn[4] * wrist.real  # x and -z in frame 4, at the elbow; its y is along the forearm
    elbow = turn[3] * (
        twisted.real - ELBOW_OFFSET + 1j * (wrist.imag + FOREARM)
    )  # x and z in frame 3, x short of an offset
    upper = turn[2] * (elbow.real + ELBOW_OFFSET + 1j * twisted.imag)  # x and z in frame 2, whose y is downwards
    shoulder = turn[1] * (upper.real - 1j * (elbow.imag + UPPER_ARM))  # x and -z in frame 1, which stands upright
    base = turn[0] * (shoulder.real + 1j * upper.imag)
    tip = np.empty((len(positions), 3), positions.dtype)
    tip[:, 0] = base.real
    tip[:, 1] = base.imag
    tip[:, 2] = SHOULDER_HEIGHT - shoulder.imag
    return tip


class Reach(Task, Disturbable, PlanDrawable, Shapeable):
    """Bring the fingertip of a 7-joint arm within 2 cm of a target and hold it there until the episode ends.

    Observations are `FEATURES`, actions `ACTIONS`, at 50 Hz:

    - `position`: increments of the servos' setpoints, at most 0.8 × the joint's speed limit × 20 ms; 0 holds the pose;
    - `torque`: shares of the torque limits, on top of gravity compensation, the sum being limited to them.

    Every target is where the fingertip is in a pose sampled uniformly from the joints' ranges and found free of
    collisions, so it can be reached; `userdata` holds that pose. Metric `success`: the fingertip is within 2 cm of the
    target; it counts at the episode's last step.

    Args:
        control: `position` (increments through servos) or `torque`.
        target_visible: seconds from an episode's beginning after which the target is hidden: its columns are 0 then,
            and what was seen must be remembered; None: always visible.
    """

    model_file: ClassVar[str] = "reach_arm.xml"
    decimation: ClassVar[int] = 2
    outputs: ClassVar[Sequence[str]] = ("ncon",)
    disturbance_target: ClassVar[DisturbanceTarget] = DisturbanceTarget(
        "link5", 60.0, ball_mass=0.5, ball_radius=0.06, reach=0.85
    )

    def __init__(
        self, control: Literal["position", "torque"] = "position", target_visible: float | None = None
    ) -> None:
        if control not in ("position", "torque"):
            raise GantryError(f"control must be 'position' or 'torque', not {control!r}")
        if target_visible is not None and not target_visible > 0.0:
            raise GantryError(f"target_visible must be above 0 s, or None for always, not {target_visible!r}")
        self.target_visible = target_visible
        self.servos = control == "position"
        self.observation_components = FEATURES if self.servos else FEATURES[:-1]
        self.observation_space = box(self.observation_components)
        self._width = sum(component.count for component in self.observation_components)
        self.action_components = ACTIONS[control]
        self.action_space = box(self.action_components)

    def load_specification(self) -> mujoco.MjSpec:
        """Return the model; with torque control its servos become plain motors."""
        specification = super().load_specification()
        if self.servos:
            return specification
        for actuator, limit in zip(specification.actuators, TORQUE_LIMITS, strict=True):
            actuator.set_to_motor()
            actuator.gear[0] = limit
            actuator.ctrlrange[:] = -1.0, 1.0
        return specification

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Start at rest near the home pose, with the target anywhere that the arm can reach."""
        start = HOME + random.uniform(-START_SPREAD, START_SPREAD, JOINTS)
        pose = self._sample_free_pose(state, env_ids, random)
        state.userdata[env_ids] = pose
        state.mocap_pos[env_ids, 0] = fingertip(pose)
        state.qpos[env_ids] = start
        if self.servos:
            state.ctrl[env_ids] = start

    def _sample_free_pose(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> np.ndarray:
        """Return joint positions (k, 7), uniform among those free of collisions, tried in environments `env_ids`."""
        contacts = state.ncon
        state.qpos[env_ids] = pose = np.tile(HOME, (len(env_ids), 1))
        resting = np.zeros_like(contacts[env_ids])
        if state.batch.model.nv > JOINTS:  # balls lie about, waiting to be thrown
            state.batch.forward(env_ids, POSITIONS)
            resting = contacts[env_ids]
        waiting = np.arange(len(env_ids))
        for _ in range(TARGET_TRIES):
            # Every environment samples at every try, so that what one samples does not depend on the others.
            drawn = random.uniform(0.0, 1.0, JOINTS)[waiting] * RANGES + LOWEST
            trying = env_ids[waiting]
            state.qpos[trying] = drawn
            state.batch.forward(trying, POSITIONS)
            free = (contacts[trying] <= resting[waiting]).reshape(-1)
            pose[waiting[free]] = drawn[free]
            waiting = waiting[~free]
            if not len(waiting):
                break
        return pose

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the shares of the largest increments or torques, (n, 7) in [-1, 1]."""
        return clip(actions, -1.0, 1.0)

    def advance(self, state: State, control: np.ndarray, mask: np.ndarray | None) -> None:
        """Move the servos' setpoints by their increments, within the joints' ranges, or apply the torques."""
        if self.servos:
            position, setpoints = state.qpos, state.ctrl
            lowest = np.maximum(position - MAX_LEAD, LOWEST)
            highest = np.minimum(position + MAX_LEAD, HIGHEST)
            moved = np.minimum(np.maximum(setpoints + control * INCREMENTS, lowest), highest)
            control = moved if mask is None else np.where(mask[:, None], moved, setpoints)
        super().advance(state, control, mask)

    def features(self, state: State) -> np.ndarray:
        """Return `FEATURES`: (n, 27) with servos, else (n, 20); if the target hides, also whether it shows, 0 or 1."""
        position, target = state.qpos, state.mocap_pos[:, 0]
        features = np.empty((len(position), self._width + (self.target_visible is not None)), np.float32)
        features[:, :7] = position
        features[:, 7:14] = state.qvel
        features[:, 14:17] = target - fingertip(features[:, :7])
        features[:, 17:20] = target
        if self.servos:
            lead = (state.ctrl - position).astype(np.float32)
            features[:, 20:27] = lead * SHARE_PER_RADIAN - features[:, 7:14] * (SHARE_PER_RADIAN * DAMPING_TIME)
        if self.target_visible is not None:
            features[:, -1] = earlier_than(self.target_visible, state.time)
        return features

    def observation(self, features: np.ndarray) -> Observation:
        """Return the features, without the target where it is hidden."""
        if self.target_visible is None:
            return super().observation(features)
        observed = features[..., : self._width].copy()
        observed[..., 14:20] = np.where(features[..., -1:] > 0, observed[..., 14:20], 0.0)
        return observed

    @property
    def observes_features(self) -> bool:
        """Whether an observation is all of the features, as they are."""
        return self.target_visible is None and type(self).observation is Reach.observation

    def to_target(self, features: Numeric) -> Numeric:
        """Return the vector from the fingertip to the target, (..., 3) in m."""
        return features[..., 14:17]

    def target(self, features: Numeric) -> Numeric:
        """Return the position of the target, (..., 3) in m from the base."""
        return features[..., 17:20]

    def drawn_point(self, features: Numeric) -> Numeric:
        """Return the position of the fingertip, (..., 3) in m from the base."""
        return self.target(features) - self.to_target(features)

    def distance(self, features: Numeric) -> Numeric:
        """Return the distance between fingertip and target, (...) in m."""
        return length(self.to_target(features))

    def joint_speed(self, features: Numeric) -> Numeric:
        """Return the joints' root mean square speed, (...) in rad/s."""
        return length(features[..., 7:14]) * JOINTS**-0.5

    def potential(self, features: Numeric) -> Numeric:
        """Return -20 per m of distance to the target, (...)."""
        return self.distance(features) * -DISTANCE_WEIGHT

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return `success` (bool): the fingertip is within 2 cm of the target."""
        return {"success": self.distance(features) <= SUCCESS_DISTANCE}

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return (far + near + close)/3 × steady × gentle, in [0, 1], which is 1 only at rest on the target.

        `far`, `near` and `close` are Gaussians in the distance, with margins 1 m, 25 cm and 5 cm, so that one of them
        has a slope at every distance; `steady` in [½, 1] asks for slow joints, the more so the closer the target;
        `gentle` in [0.9, 1] is 1 - the mean square of the control / 10.
        """
        distance = self.distance(next_features)
        close = tolerance(distance, margin=CLOSE)
        terms = {
            "far": tolerance(distance, margin=FAR),
            "near": tolerance(distance, margin=NEAR),
            "close": close,
            "steady": 1.0 - 0.5 * close * (1.0 - tolerance(self.joint_speed(next_features), margin=BRISK)),
            "gentle": 1.0 - squared_length(control) * (0.1 / JOINTS),
        }
        reached = (terms["far"] + terms["near"] + close) * (1.0 / 3.0)
        return reached * terms["steady"] * terms["gentle"], terms


class ReachGoal(Reach, GoalConditioned):
    """`Reach` with goals in the observation, as hindsight replay needs them (Andrychowicz et al. 2017).

    Observations are a dictionary: `observation` holds what `Reach` observes of the joints, `achieved_goal` the
    fingertip's position and `desired_goal` the target's. The reward is 0 within 2 cm of the target, else -1. Actions
    and options are those of `Reach`.
    """

    def __init__(self, control: Literal["position", "torque"] = "position") -> None:
        super().__init__(control)
        self._columns = np.r_[0:14, 20 : self._width]
        self.observation_components = (
            *(replace(FEATURES[index], key="observation") for index in GOAL_OBSERVATION if self.servos or index < 4),
            Component("fingertip from the base, x y z", "m", -3.0, 3.0, count=3, key="achieved_goal"),
            Component("target from the base, x y z", "m", -3.0, 3.0, count=3, key="desired_goal"),
        )
        self.observation_space = dict_space(self.observation_components)

    def observation(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return the three entries, (..., number) each."""
        return {
            "observation": features[..., self._columns],
            "achieved_goal": self.target(features) - self.to_target(features),
            "desired_goal": self.target(features).copy(),
        }

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return 0 within 2 cm of the target, else -1; the term `at_target` is 1 or 0."""
        target = self.target(next_features)
        reward = self.compute_reward(target - self.to_target(next_features), target)
        return reward, {"at_target": reward + 1.0}

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return `success` (bool), which is what the reward pays for."""
        return {"success": self.reward(features, None, features)[0] == 0.0}

    def compute_reward(self, achieved_goal: Numeric, desired_goal: Numeric, info: object = None) -> Numeric:
        """Return the reward (...) for reaching `achieved_goal` (..., 3) when asked for `desired_goal` (..., 3)."""
        return tolerance(length(desired_goal - achieved_goal), 0.0, SUCCESS_DISTANCE) - 1.0
