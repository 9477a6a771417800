"""What each agent must reach with its recipe for an environment, and in how many seconds.

A case trains on seeds that no recipe was tuned on, and is judged by episodes of the test range.
"""

import dataclasses
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from gantry.agents import agent_class
from gantry.agents.protocol import Agent, AgentConfig, Callback
from gantry.benchmark.rows import Report, Row
from gantry.runs.evaluate import Evaluation, evaluate
from gantry.runs.folder import Run
from gantry.runs.recipes import recipe_for
from gantry.runs.train import close_agent, make_agent, resume, train
from gantry.types import Json

FIRST_SEED = 100
"""Recipes were tuned on seeds below 100."""


def trained(
    env_id: str, agent: str, config: AgentConfig, steps: int, seed: int, env_options: Json, folder: Path | None
) -> Agent:
    """Return an agent that has learned for `steps` environment steps, with its environments closed.

    Args:
        env_id: the environment, as every other argument but the last as `train` takes it.
        agent: the agent's id.
        config: its settings.
        steps: environment steps in all.
        seed: the training seed.
        env_options: the environment's.
        folder: where the run is kept; one that was stopped there goes on, one that had ended is taken as it is. None:
            it is not kept.
    """
    if folder is None:
        learner = make_agent(agent, env_id, config, seed, env_options)
        learner.learn(steps)
        close_agent(learner)
        return learner
    run = Run(folder)
    return resume(run) if run.exists() else train(run, env_id, agent, config, steps, seed, env_options)


@dataclasses.dataclass(frozen=True)
class Case:
    """An agent in an environment, and the goal for its median over training seeds."""

    agent: str
    env_id: str
    goal: float
    """What the metric must reach."""
    seconds: float | None
    """Longest learning time; None: not limited."""
    metric: str = "score"
    """`score`, `success`, or one of the environment's metrics."""
    seeds: int = 5
    episodes: int = 100
    """Test episodes per policy. From 100, a success of 95 % is known to ± 4 % only; from 400, to ± 2 %."""

    @property
    def name(self) -> str:
        """The agent and its environment."""
        return f"{self.agent.upper()} on {self.env_id.removeprefix('gantry/')}"


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
    Case("sac", "gantry/CartPoleSwingUp-v0", 850.0, None),
    Case("cem", "gantry/CartPoleBalance-v0", 950.0, 10.0),
    Case("nes", "gantry/CartPoleBalance-v0", 950.0, 10.0),
)


def begin_case(env_id: str, agent: str, seed: int, options: Json | None = None) -> tuple[Agent, Json, int]:
    """Build an agent with its recipe.

    Args:
        env_id: the environment.
        agent: the agent's id.
        seed: of the training.
        options: of the environment, beside those of the recipe.

    Returns:
        The agent, the environment's options, and the recipe's number of steps.
    """
    recipe = recipe_for(env_id, agent, options)
    options = {**recipe.env_options, **(options or {})}
    return make_agent(agent, env_id, recipe.config, seed, options), options, recipe.total_steps


def train_case(
    env_id: str,
    agent: str,
    seed: int,
    options: Json | None = None,
    callback: Callback | None = None,
) -> tuple[Agent, Json, float]:
    """Train with the recipe; arguments as for `begin_case`, and the `callback` of `learn`.

    Returns:
        The agent, the environment's options, and the seconds that learning took.
    """
    learner, options, steps = begin_case(env_id, agent, seed, options)
    started = time.perf_counter()
    learner.learn(steps, callback)
    return learner, options, time.perf_counter() - started


def measure(report: Report, agents: Sequence[str], seeds: int = 5) -> None:
    """Measure the cases, one after another.

    Args:
        report: called with each row as soon as it is known.
        agents: ids of the agents whose cases are measured.
        seeds: most training seeds per case.

    Raises:
        GantryError: an agent of an unknown name.
    """
    for name in agents:
        agent_class(name)
    for case in CASES:
        if case.agent not in agents:
            continue
        count = min(case.seeds, seeds)
        values, spent = [], []
        for seed in range(count):
            learner, options, taken = train_case(case.env_id, case.agent, FIRST_SEED + seed)
            result = evaluate(learner.act, case.env_id, case.episodes, 0, options, "test")
            close_agent(learner)
            values.append(_metric(result, case.metric))
            spent.append(taken)
        note = ", ".join(f"{value:.3f}" if value <= 1.0 else f"{value:.0f}" for value in values)
        unit = "score" if case.metric == "score" else "share"
        name = f"{case.name}: {case.metric}, median of {count} seeds"
        report(Row(name, statistics.median(values), unit, case.goal, note=note))
        note = ", ".join(f"{taken:.0f} s" for taken in spent)
        report(Row(f"{case.name}: learning time, median", statistics.median(spent), "s", case.seconds, "lower", note))


def _metric(result: Evaluation, name: str) -> float:
    if name == "score":
        return result.score
    return (result.success or 0.0) if name == "success" else result.metrics[name]
