"""What each agent must reach with the settings that are shipped for an environment, and in how many seconds.

A case trains on seeds that no settings were tuned on, and judges by episodes of the test range.
"""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

from gantry.agents import agent_class
from gantry.agents.protocol import Callback
from gantry.benchmark.rows import Report, Row
from gantry.runs.evaluate import Evaluation, evaluate
from gantry.runs.recipes import recipe_for
from gantry.runs.train import make_agent

FIRST_SEED = 100
"""Settings were tuned on seeds below 100."""


@dataclasses.dataclass(frozen=True)
class Case:
    """An agent in an environment, and what is asked of it: the median over training seeds."""

    agent: str
    env_id: str
    goal: float
    """What the figure must reach."""
    seconds: float | None
    """What learning may take; None: not limited."""
    figure: str = "score"
    """`score`, `success`, or one of the environment's metrics."""
    seeds: int = 5
    episodes: int = 100
    """Test episodes a policy. Of 100, a success of 95 % is known to ± 4 % only; of 400, to ± 2 %."""

    @property
    def name(self) -> str:
        """Who learns what."""
        return f"{agent_class(self.agent).__name__} on {self.env_id.removeprefix('gantry/')}"


CASES = (
    Case("ppo", "gantry/ReachPlanar-v0", 0.95, 60.0, "success", 3, 400),
    Case("ppo", "gantry/Reach-v0", 0.95, 120.0, "success", 3, 400),
    Case("ppo", "gantry/Vacuum-v0", 0.95, 120.0, "coverage", 3, 400),
    Case("dqn", "CartPole-v1", 500.0, 40.0),
    Case("dqn", "gantry/CartPoleBalance-v0", 950.0, None),
    Case("reinforce", "CartPole-v1", 475.0, 40.0),
    Case("a2c", "gantry/CartPoleBalance-v0", 950.0, 15.0),
    Case("a2c", "gantry/CartPoleSwingUp-v0", 750.0, 60.0),
    Case("ddpg", "gantry/CartPoleSwingUp-v0", 800.0, 30.0),
    Case("ddpg", "gantry/ReachPlanar-v0", 0.95, 60.0, "success", episodes=400),
    Case("ddpg", "gantry/ReachGoal-v0", 0.9, 180.0, "success", episodes=400),
    Case("cem", "gantry/CartPoleBalance-v0", 950.0, 10.0),
    Case("nes", "gantry/CartPoleBalance-v0", 950.0, 10.0),
)


def begin_case(
    env_id: str, agent: str, seed: int, options: dict[str, Any] | None = None
) -> tuple[Any, dict[str, Any], int]:
    """Build a learner with the shipped settings.

    Args:
        env_id: the environment.
        agent: the agent's id.
        seed: of the training.
        options: of the environment, beside those that are shipped.

    Returns:
        The agent, the environment's options, and the shipped budget of steps.
    """
    recipe = recipe_for(env_id, agent, options)
    options = {**recipe.env_options, **(options or {})}
    return make_agent(agent, env_id, recipe.config, seed, options), options, recipe.total_steps


def train_case(
    env_id: str,
    agent: str,
    seed: int,
    options: dict[str, Any] | None = None,
    callback: Callback | None = None,
) -> tuple[Any, dict[str, Any], float]:
    """Train with the shipped settings and budget; arguments as of `begin_case`, and the `callback` of `learn`.

    Returns:
        The agent, the environment's options, and the seconds that learning took.
    """
    learner, options, steps = begin_case(env_id, agent, seed, options)
    begun = time.perf_counter()
    learner.learn(steps, callback)
    return learner, options, time.perf_counter() - begun


def measure(report: Report, agents: Sequence[str], seeds: int = 5) -> None:
    """Measure the cases, one after another.

    Args:
        report: called with each row as soon as it is known.
        agents: whose.
        seeds: training seeds of a case, at most.

    Raises:
        GantryError: an agent of an unknown name.
    """
    for name in agents:
        agent_class(name)
    for case in CASES:
        if case.agent not in agents:
            continue
        count = min(case.seeds, seeds)
        figures, spent = [], []
        for seed in range(count):
            learner, options, taken = train_case(case.env_id, case.agent, FIRST_SEED + seed)
            result = evaluate(learner.act, case.env_id, case.episodes, 0, options, "test")
            learner.env.close()
            figures.append(_figure(result, case.figure))
            spent.append(taken)
        note = ", ".join(f"{value:.3f}" if value <= 1.0 else f"{value:.0f}" for value in figures)
        unit = "score" if case.figure == "score" else "share"
        name = f"{case.name}: {case.figure}, median of {count} seeds"
        report(Row(name, statistics.median(figures), unit, case.goal, note=note))
        note = ", ".join(f"{taken:.0f} s" for taken in spent)
        report(Row(f"{case.name}: learning time, median", statistics.median(spent), "s", case.seconds, "lower", note))


def _figure(result: Evaluation, name: str) -> float:
    if name == "score":
        return result.score
    return (result.success or 0.0) if name == "success" else result.metrics[name]
