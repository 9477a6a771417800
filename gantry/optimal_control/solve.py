"""Score environments by optimal control, which knows their dynamics and reward, as a reference for agents.

`lqr` is the linear-quadratic regulator around the pose of the highest reward, `ilqr` iterative LQR on the reward of the
whole episode. Both plan each episode separately; the actions are then played in the environment and scored.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import numpy as np

from gantry.envs.domain_randomization import parse_quantity
from gantry.errors import GantryError, nearest
from gantry.machine.threads import torch_threads
from gantry.optimal_control.simulator_dynamics import SimulatedDynamics
from gantry.optimal_control.trajectory import FeedbackPolicy, TrajectoryConfig, TrajectoryPlanner
from gantry.runs.environments import find_task, registered_id
from gantry.runs.evaluate import Evaluation, check_episodes, evaluate
from gantry.runs.seeds import environment_seed
from gantry.types import Json, Options

Method = Literal["lqr", "ilqr"]
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULTS = TrajectoryConfig()
UNPLANNED = ("motor_delay", "delay_fraction", "sensor_noise", "gravity_tilt")
"""Physical quantities that plans do not take into account, or that are sampled."""


@dataclasses.dataclass(frozen=True)
class ControlResult:
    """The plans of one method and their evaluation."""

    method: Method
    env_id: str
    evaluation: Evaluation
    """Scores of the actions, played in the environment."""
    actions: np.ndarray
    """(episodes, steps, p) float32."""
    planned_scores: tuple[tuple[float, ...], ...]
    """For each episode, the planned score of the initial guess and after each iteration; empty for `lqr`."""
    seconds: float
    """Wall time of planning all episodes."""

    def to_json(self) -> Json:
        """Return the result as JSON values, without the actions."""
        plain = {"method": self.method, "env_id": self.env_id, "seconds": self.seconds}
        planned = [list(scores) for scores in self.planned_scores]
        return {**plain, "planned_scores": planned, **self.evaluation.to_json()}


class Playback:
    """Open-loop playback of action sequences: the t-th call of `act` returns the actions of step t.

    Args:
        actions: (episodes, steps, p).
    """

    def __init__(self, actions: np.ndarray) -> None:
        self._steps = iter(actions.swapaxes(0, 1))

    def act(self, observation: np.ndarray) -> np.ndarray:
        """Return the next actions (episodes, p); the observation is ignored."""
        return next(self._steps)


def solve(
    env_id: str,
    method: Method = "ilqr",
    episodes: int = 3,
    seed: int = 0,
    env_options: Options | None = None,
    config: TrajectoryConfig = DEFAULTS,
    progress: Callable[[int, int, float], None] | None = None,
) -> ControlResult:
    """Plan episodes of an environment and play the plans.

    Args:
        env_id: id of a registered task.
        method: lqr or ilqr.
        episodes: number of episodes, each planned separately.
        seed: block of evaluation seeds; `evaluate` with the same seed scores agents on the same episodes.
        env_options: options of the task.
        config: settings.
        progress: called with the episode, the iteration and the planned score.

    Raises:
        GantryError: an invalid setting, or an environment that optimal control cannot handle.
    """
    if method not in METHODS:
        raise GantryError(f"there is no optimal control method {method!r}{nearest(method, METHODS)}")
    if find_task(env_id) is None:
        raise GantryError(f"optimal control needs a task that Gantry simulates, not {env_id}")
    check_episodes(episodes)
    _check_options(env_options or {})
    start_time = time.perf_counter()
    dynamics = SimulatedDynamics(registered_id(env_id), env_options)
    simulator = dynamics.simulator(episodes)
    simulator.reset(seed=environment_seed("evaluation", seed, episodes))
    steps = simulator.max_episode_steps
    assert steps is not None  # every registered task has a time limit
    planner = TrajectoryPlanner(dynamics, steps, config)
    actions, planned_scores = [], []
    with torch_threads(1):  # the tensors are small
        for episode, origin in enumerate(simulator.batch.state.copy()):
            start = dynamics.begin_episode(origin)
            controller = planner.lqr_controller(start)
            policy: FeedbackPolicy = controller
            if method == "ilqr":
                report = None if progress is None else functools.partial(progress, episode)
                solution = planner.plan(start, controller, report)
                planned_scores.append(tuple(planner.score(cost) for cost in solution.costs))
                policy = planner.tracking_policy(solution)
            actions.append(dynamics.rollout(policy, steps))
    played = np.stack(actions)
    seconds = time.perf_counter() - start_time
    evaluation = evaluate(Playback(played).act, env_id, episodes, seed, dict(env_options or {}))
    return ControlResult(method, env_id, evaluation, played, tuple(planned_scores), seconds)


def _check_options(env_options: Options) -> None:
    """Refuse options with which an episode cannot be planned (GantryError)."""
    if env_options.get("disturb"):
        raise GantryError("optimal control needs undisturbed dynamics; leave out disturb")
    if env_options.get("trial", 1) != 1:
        raise GantryError("optimal control knows the physics and plans single episodes; leave out trial")
    physics = env_options.get("physics")
    for name, value in physics.items() if isinstance(physics, Mapping) else ():
        quantity = parse_quantity(value) if isinstance(value, str) else value
        if not isinstance(quantity, int | float) or name in UNPLANNED:
            raise GantryError(f"optimal control needs known dynamics; give {name} as a number, or leave it out")


def ilqr_score(env_id: str, episodes: int = 3, seed: int = 0) -> float:
    """Return the mean score of iterative LQR in an environment; takes seconds per episode (see `solve`)."""
    return solve(env_id, "ilqr", episodes, seed).evaluation.score
