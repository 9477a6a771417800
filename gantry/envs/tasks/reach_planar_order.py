"""The planar arm with several targets, which its fingertip visits in their order."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from gantry.envs.capabilities import Disturbable, PlanDrawable, Subgoals
from gantry.envs.components import Component, box
from gantry.envs.disturbances import DisturbanceTarget
from gantry.envs.domain_randomization import PhysicalParameter
from gantry.envs.random_streams import RandomStreams
from gantry.envs.state import State
from gantry.envs.task import Task
from gantry.envs.tasks.reach_planar import ACTIONS, FEATURES, TARGET_RING, TO_TARGET_X, WRIST_VELOCITY, ReachPlanar
from gantry.types import Numeric

TARGETS = 3
COLORS = ((0.86, 0.24, 0.27, 0.75), (0.95, 0.77, 0.20, 0.75), (0.30, 0.68, 0.39, 0.75))
"""Colors of the targets, in their order."""
ARM = [column for column in range(WRIST_VELOCITY + 1) if column not in (TO_TARGET_X, TO_TARGET_X + 1)]
"""Columns of the features that show the arm alone."""
TO_TARGETS = WRIST_VELOCITY + 1
"""Column of the features from which on they show the way to each target, x and y."""
VISITED = TO_TARGETS + 2 * TARGETS
"""Column of the number of targets visited."""


class ReachPlanarOrder(Task, Disturbable, PlanDrawable, Subgoals):
    """Touch three targets, in their order, which the reward alone tells: red, yellow, green.

    The arm, its actions and its physics are those of `ReachPlanar`. Observations (float32): those of `ReachPlanar` of
    the arm, the way from the fingertip to each target, x and y in m, and how many targets have been visited, 0, 1 or 2,
    one-hot. Metrics: `visited`, the share of the targets, and `success`, all of them, which ends the episode.

    As a goal-conditioned skill, "reach target k" observes what `ReachPlanar` shows, with the way to target k; it ends
    when the fingertip touches it.

    Args:
        target: `easy` (balls of 5 cm radius) or `hard` (1.5 cm).
    """

    model_file: ClassVar[str] = ReachPlanar.model_file
    decimation: ClassVar[int] = ReachPlanar.decimation
    action_components, action_space = ACTIONS, box(ACTIONS)
    observation_components = (
        *(FEATURES[column] for column in ARM),
        *(Component(f"from the fingertip to target {k + 1}, x y", "m", -0.5, 0.5, 2) for k in range(TARGETS)),
        Component("0, 1, 2 targets have been visited", "0 or 1", 0.0, 1.0, TARGETS, varies=False),
    )
    observation_space = box(observation_components)
    common_physics: ClassVar[dict[str, PhysicalParameter]] = dict(ReachPlanar.common_physics)
    disturbance_target: ClassVar[DisturbanceTarget] = ReachPlanar.disturbance_target
    subgoals: Sequence[str] = [f"reach target {k + 1}" for k in range(TARGETS)]
    skill_observation_space = ReachPlanar.observation_space

    def __init__(self, target: Literal["easy", "hard"] = "easy") -> None:
        self._arm = ReachPlanar(target)

    def load_specification(self) -> mujoco.MjSpec:
        """Return the arm's model with three targets, and a number to remember."""
        specification = self._arm.load_specification()
        size = self._arm.target_radius
        for k in range(1, TARGETS):
            body = specification.worldbody.add_body(name=f"target{k + 1}", mocap=True)
            body.add_geom(
                type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[size, 0, 0], rgba=COLORS[k], contype=0, conaffinity=0
            )
        specification.nuserdata = 1
        return specification

    def reset(self, state: State, env_ids: np.ndarray, random: RandomStreams) -> None:
        """Start at rest in any pose, with the targets anywhere in their ring."""
        self._arm.reset(state, env_ids, random)
        bearing = random.uniform(0.0, 2 * np.pi, TARGETS - 1)
        radius = random.uniform(*TARGET_RING, TARGETS - 1)
        state.mocap_pos[env_ids, 1:, 0] = radius * np.cos(bearing)
        state.mocap_pos[env_ids, 1:, 1] = radius * np.sin(bearing)

    def control(self, actions: np.ndarray) -> np.ndarray:
        """Return the shares of the motors' torques, (n, 2) in [-1, 1]."""
        return self._arm.control(actions)

    def advance(self, state: State, control: np.ndarray, mask: np.ndarray | None) -> None:
        """Turn the joints; count the next target where the fingertip touches it."""
        super().advance(state, control, mask)
        visited = state.userdata[:, 0]
        touched = self.subgoal_reached(self.features(state), np.minimum(visited, TARGETS - 1).astype(np.int64))
        touched &= visited < TARGETS
        if mask is not None:
            touched &= mask
        visited[touched] += 1.0

    def features(self, state: State) -> np.ndarray:
        """Return those of `ReachPlanar`, the ways to all targets, and how many have been visited: (n, 14)."""
        own = self._arm.features(state)
        between = (state.mocap_pos[:, :, :2] - state.mocap_pos[:, :1, :2]).astype(np.float32)
        ways = own[:, None, TO_TARGET_X : TO_TARGET_X + 2] + between
        return np.concatenate(
            [own, ways.reshape(len(own), 2 * TARGETS), state.userdata[:, :1].astype(np.float32)], axis=1
        )

    def observation(self, features: np.ndarray) -> np.ndarray:
        """Return the arm, the ways to the targets, and how many have been visited, (..., 14)."""
        visited = features[..., [VISITED]] == np.arange(TARGETS)
        parts = features[..., ARM], features[..., TO_TARGETS:VISITED], visited.astype(np.float32)
        return np.concatenate(parts, axis=-1)

    def skill_observation(self, features: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Return what `ReachPlanar` shows where its target is one of the targets, `goals` (n,): (n, 7)."""
        observation = features[..., : len(FEATURES)].copy()
        observation[..., TO_TARGET_X : TO_TARGET_X + 2] = self._ways(features, goals)
        return observation

    def subgoal_reached(self, features: np.ndarray, goals: np.ndarray) -> NDArray[np.bool_]:
        """Return whether the fingertip touches the targets `goals` (n,)."""
        ways = self._ways(features, goals)
        reached: NDArray[np.bool_] = (ways * ways).sum(axis=-1) <= self._arm.touching**2
        return reached

    def _ways(self, features: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Return the ways from the fingertip to the targets `goals` (n,), (n, 2) in m."""
        columns = TO_TARGETS + 2 * goals[..., None] + np.arange(2)
        return np.take_along_axis(features, columns, axis=-1)

    def drawn_point(self, features: Numeric) -> Numeric:
        """Return where the fingertip is, (..., 3) in m, above the table."""
        return self._arm.drawn_point(features)

    def metrics(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Return `visited`, the share of the targets, and `success` (bool), all of them."""
        return {"visited": features[..., VISITED] / TARGETS, "success": features[..., VISITED] >= TARGETS}

    def reward(self, features: Numeric, control: Numeric, next_features: Numeric) -> tuple[Numeric, dict[str, Numeric]]:
        """Return 1 for touching the next target, else 0."""
        visited = next_features[..., VISITED] - features[..., VISITED]
        return visited, {"visited": visited}

    def terminated(self, next_features: Numeric) -> Numeric:
        """Return whether all targets have been visited."""
        return next_features[..., VISITED] >= TARGETS
