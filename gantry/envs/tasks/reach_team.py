"""Two planar arms on one table: each brings its fingertip to a target of its own, and both share the space between."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np

from gantry.envs.capabilities import Team
from gantry.envs.components import Component, box
from gantry.envs.domain_randomization import COMMON, PhysicalParameter
from gantry.envs.features import columns, cos_sin
from gantry.envs.random_streams import RandomStreams
from gantry.envs.rewards import clip, namespace, tolerance
from gantry.envs.state import State
from gantry.envs.task import Task
from gantry.errors import GantryError
from gantry.types import Numeric, Observation

ARMS = 2
UPPER_LENGTH, LOWER_LENGTH = 0.12, 0.12
"""Distances from shoulder to wrist and from wrist to fingertip (m)."""
SHOULDER_DISTANCE = 0.2
"""Distance between the shoulders (m)."""
FINGERTIP_RADIUS, TARGET_RADIUS = 0.01, 0.03
"""Radii of the balls (m)."""
TARGET_RING = (0.08, 0.20)
"""Smallest and largest distance of a target from its arm's shoulder (m)."""
TARGET_BEARING = 2.0
"""Largest angle (rad) between the directions from a shoulder to its target and to the other shoulder."""
START_TURN, START_BEND = np.pi / 3, np.pi / 2
"""Largest angles (rad) of a first pose from pointing away from the other arm, and of its wrist."""
FAR, CLOSE = 0.4, 0.05
"""Distances (m) at which the reward's two terms have fallen to a tenth."""
TOUCH = -0.1
"""Reward of each arm for a step that ends in contact with the other."""

COSINE, SINE, WRIST, TO_TARGET_X, TO_TARGET_Y, SHOULDER_VELOCITY, WRIST_VELOCITY, TOUCHING = range(8)
"""Features of each arm, a column for each of the two; what follows only it observes."""
MIRROR = np.array([1.0, -1.0])
"""Sign that turns x and y into each arm's own frame, whose x axis points to the other shoulder."""

OBSERVED = (
    Component("cosine of the shoulder's angle", low=-1.0, high=1.0, note="1 = towards the other shoulder"),
    Component("sine of the shoulder's angle", low=-1.0, high=1.0),
    Component("wrist angle", "rad", -4.0, 4.0, note="0 = stretched; ±2.79 plus what the soft stops yield"),
    Component("from the fingertip to the target's center, x", "m", -1.0, 1.0),
    Component("from the fingertip to the target's center, y", "m", -1.0, 1.0),
    Component("shoulder angular velocity", "rad/s", -100.0, 100.0, note="about ±10"),
    Component("wrist angular velocity", "rad/s", -100.0, 100.0, note="about ±20"),
    Component("the arms touch", "0 or 1", 0.0, 1.0, varies=False),
    Component("from the fingertip to the other's, x", "m", -1.0, 1.0),
    Component("from the fingertip to the other's, y", "m", -1.0, 1.0),
    Component("from the fingertip to the other's wrist, x", "m", -1.0, 1.0),
    Component("from the fingertip to the other's wrist, y", "m", -1.0, 1.0),
    Component("from the other's fingertip to its target, x", "m", -1.0, 1.0),
    Component("from the other's fingertip to its target, y", "m", -1.0, 1.0),
)
"""What each arm observes, in its own frame."""
ACTIONS = (Component("shoulder torque", "0.05 N m", -1.0, 1.0), Component("wrist torque", "0.05 N m", -1.0, 1.0))


def _of_both(components: Sequence[Component]) -> list[Component]:
    return [dataclasses.replace(each, name=f"arm {arm}: {each.name}") for arm in (1, 2) for each in components]


class ReachTeam(Task, Team):
    """Bring both fingertips to their targets without the arms getting into each other's way.

    Observations of each arm are `OBSERVED` in its own frame, whose x axis points to the other shoulder, so that both
    arms see the same task; actions are `ACTIONS`. Metrics: `success`, both fingertips touch their targets; `touching`,
    the arms touch each other.

    Args:
        credit: what each arm is rewarded with: `own`, for its own fingertip, or `shared`, the sum for both.
    """

    model_file: ClassVar[str] = "reach_team.xml"
    decimation: ClassVar[int] = 4
    outputs: ClassVar[Sequence[str]] = ("sensordata",)
    robots = ARMS
    robot_observation_space, robot_action_space = box(OBSERVED), box(ACTIONS)
    observation_components, action_components = _of_both(OBSERVED), _of_both(ACTIONS)
    observation_space, action_space = box(observation_components), box(action_components)
    term_weights: ClassVar[Mapping[str, float]] = {"touch": TOUCH}
    # Faster than about 75 rad/s, an arm turns so far in a time step that its simulation diverges.
    common_physics: ClassVar[Mapping[str, PhysicalParameter]] = {
        **COMMON,
        "damping": dataclasses.replace(COMMON["damping"], low=0.5),
        "gear": dataclasses.replace(COMMON["gear"], high=4.0),
    }

    def __init__(self, credit: Literal["own", "shared"] = "own") -> None:
        if credit not in ("own", "shared"):
            raise GantryError(f"credit must be 'own' or 'shared', not {credit!r}")
        self.shared_reward = credit == "shared"

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Start at rest, the arms pointing away from each other, with targets on the side between them."""
        turn = random.uniform(-START_TURN, START_TURN, ARMS) + np.array([np.pi, 0.0])
        bend = random.uniform(-START_BEND, START_BEND, ARMS)
        state.qpos[env_ids] = np.stack([turn, bend], axis=2).reshape(-1, 2 * ARMS)
        bearing, radius = random.uniform(-TARGET_BEARING, TARGET_BEARING, ARMS), random.uniform(*TARGET_RING, ARMS)
        state.mocap_pos[env_ids, :, 0] = MIRROR * (radius * np.cos(bearing) - SHOULDER_DISTANCE / 2)
        state.mocap_pos[env_ids, :, 1] = MIRROR * (radius * np.sin(bearing))

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the shares of the motors' torques, (n, 4) in [-1, 1]."""
        return clip(actions, -1.0, 1.0)

    def features(self, state: State) -> np.ndarray:
        """Return what both arms observe, (n, 14 × 2), a pair of columns for each entry of `OBSERVED`."""
        angles, velocities = (each.reshape(-1, ARMS, 2) for each in (state.qpos, state.qvel))
        shoulder, wrist = angles[..., 0], angles[..., 1]
        cosine, sine = (MIRROR * each for each in cos_sin(shoulder))
        forearm_cosine, forearm_sine = (MIRROR * each for each in cos_sin(shoulder + wrist))
        wrist_at = UPPER_LENGTH * cosine, UPPER_LENGTH * sine
        tip = wrist_at[0] + LOWER_LENGTH * forearm_cosine, wrist_at[1] + LOWER_LENGTH * forearm_sine
        target = state.mocap_pos
        to_target = (
            MIRROR * target[..., 0] + SHOULDER_DISTANCE / 2 - tip[0],
            MIRROR * target[..., 1] - tip[1],
        )
        others_tip = (SHOULDER_DISTANCE - tip[0][:, ::-1] - tip[0], -tip[1][:, ::-1] - tip[1])
        others_wrist = (SHOULDER_DISTANCE - wrist_at[0][:, ::-1] - tip[0], -wrist_at[1][:, ::-1] - tip[1])
        touching = np.repeat(state.sensordata[:, :1] > 0, ARMS, axis=1)
        return columns(
            *(cosine, sine, wrist, *to_target, velocities[..., 0], velocities[..., 1], touching),
            *(*others_tip, *others_wrist, -to_target[0][:, ::-1], -to_target[1][:, ::-1]),
        )

    def observation(self, features: np.ndarray) -> Observation:
        """Return the arms' observations one after another, (..., 2 × 14)."""
        pairs = features.reshape(*features.shape[:-1], len(OBSERVED), ARMS)
        return np.ascontiguousarray(pairs.swapaxes(-1, -2)).reshape(features.shape)

    def distances(self, features: Numeric) -> Numeric:
        """Return the distances between fingertips and the centers of their targets, (..., 2) in m."""
        x, y = features[..., _of(TO_TARGET_X)], features[..., _of(TO_TARGET_Y)]
        return namespace(x).sqrt(x * x + y * y)

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return `success` and `touching` (bool)."""
        there = self.distances(features) <= TARGET_RADIUS + FINGERTIP_RADIUS
        return {"success": there[..., 0] & there[..., 1], "touching": features[..., TOUCHING * ARMS] > 0}

    def _terms(self, next_features: Numeric) -> dict[str, Numeric]:
        """Return the terms (..., 2) of the arms' own rewards."""
        distances = self.distances(next_features)
        return {
            "far": tolerance(distances, margin=FAR),
            "close": tolerance(distances, margin=CLOSE),
            "touch": TOUCH * next_features[..., _of(TOUCHING)] + 0.0,  # 0 rather than -0
        }

    def robot_rewards(self, features: Numeric, control: Numeric, next_features: Numeric) -> Numeric:
        """Return each arm's own reward (..., 2): a quarter of `far` and of `close` each, and `touch`."""
        terms = self._terms(next_features)
        return (terms["far"] + terms["close"]) * 0.25 + terms["touch"]

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return the sum of the arms' rewards, at most 1, and the terms.

        `far` and `close`: means over the arms of Gaussians in the distance, with margins 0.4 m and 0.05 m; `touch`:
        -0.1 for each arm while they touch.
        """
        both = self._terms(next_features)
        terms = {name: term[..., 0] + term[..., 1] for name, term in both.items()}
        terms["far"], terms["close"] = terms["far"] * 0.5, terms["close"] * 0.5
        return (terms["far"] + terms["close"]) * 0.5 + terms["touch"], terms


def _of(feature: int) -> slice:
    """Return the columns of a feature of both arms."""
    return slice(feature * ARMS, (feature + 1) * ARMS)
