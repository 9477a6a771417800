"""The classical reference: what optimal control makes of an environment whose physics and reward it knows.

`lqr` is the linear-quadratic regulator around the pose that earns most, `ilqr` iterative LQR on the reward of the whole
episode. Both plan each episode by itself, are played in the real environment, and are scored as any agent is: a
yardstick for how much of what can be had a learner gets.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np

from gantry.agents.parts.threads import torch_threads
from gantry.errors import GantryError, nearest
from gantry.optimal_control.simulator_dynamics import SimulatedDynamics
from gantry.optimal_control.trajectory import Law, Planner, PlannerConfig
from gantry.runs.environments import find_task, registered_id
from gantry.runs.evaluate import MAX_EPISODES, Evaluation, evaluate
from gantry.runs.seeds import environment_seed

Method = Literal["lqr", "ilqr"]
METHODS: tuple[Method, ...] = get_args(Method)
DEFAULTS = PlannerConfig()


@dataclasses.dataclass(frozen=True)
class Played:
    """What a method achieved."""

    method: Method
    environment: str
    evaluation: Evaluation
    """Of the actions below, played in the environment."""
    actions: np.ndarray
    """(episodes, steps, p) float32."""
    curves: tuple[tuple[float, ...], ...]
    """Of each episode, the score planned at first and after each iteration; empty where nothing is iterated."""
    seconds: float
    """Wall seconds of planning, all episodes together."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, without the actions."""
        plain = {"method": self.method, "environment": self.environment, "seconds": self.seconds}
        return {**plain, "curves": [list(curve) for curve in self.curves], **self.evaluation.to_json()}


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
    environment: str,
    method: Method = "ilqr",
    episodes: int = 3,
    seed: int = 0,
    environment_options: dict[str, Any] | None = None,
    config: PlannerConfig = DEFAULTS,
    progress: Callable[[int, int, float], None] | None = None,
) -> Played:
    """Plan episodes of an environment and play the plans.

    Args:
        environment: an id of the catalogue.
        method: lqr or ilqr.
        episodes: how many; each is planned by itself.
        seed: which block of evaluation seeds; with the same seed, `evaluate` scores agents on the same episodes.
        environment_options: of the task.
        config: settings.
        progress: called with the episode, the iteration and the score planned.

    Raises:
        GantryError: a bad setting, or an environment that optimal control can do nothing with; the message says why.
    """
    if method not in METHODS:
        raise GantryError(f"there is no classical method {method!r}{nearest(method, METHODS)}")
    if find_task(environment) is None:
        raise GantryError(f"optimal control needs a task that Gantry simulates, not {environment}")
    if not 1 <= episodes <= MAX_EPISODES:
        raise GantryError(f"the number of episodes must be from 1 to {MAX_EPISODES}, not {episodes}")
    for name in ("physics", "disturb"):
        if (environment_options or {}).get(name):
            raise GantryError(f"optimal control plans for a world without surprises; leave out {name}")
    begun = time.perf_counter()
    dynamics = SimulatedDynamics(registered_id(environment), environment_options)
    simulator = dynamics.simulator(episodes)
    simulator.reset(seed=environment_seed("evaluation", seed, episodes))
    steps = simulator.max_episode_steps
    assert steps is not None  # every entry of the catalogue has a limit
    planner = Planner(dynamics, steps, config)
    actions, curves = [], []
    with torch_threads(1):  # the tensors are small
        for episode, origin in enumerate(simulator.batch.state.copy()):
            start = dynamics.begin(origin)
            hold = planner.regulate(start)
            law: Law = hold
            if method == "ilqr":
                report = None if progress is None else functools.partial(progress, episode)
                solution = planner.plan(start, hold, report)
                curves.append(tuple(planner.score(cost) for cost in solution.costs))
                law = planner.following(solution)
            actions.append(dynamics.play(law, steps))
    played = np.stack(actions)
    seconds = time.perf_counter() - begun
    evaluation = evaluate(Playback(played).act, environment, episodes, seed, environment_options)
    return Played(method, environment, evaluation, played, tuple(curves), seconds)


def yardstick(environment: str, episodes: int = 3, seed: int = 0) -> float:
    """Return the score of iterative LQR in an environment, in seconds an episode (see `solve`)."""
    return solve(environment, "ilqr", episodes, seed).evaluation.score
