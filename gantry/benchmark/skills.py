"""`gantry bench skills`: a level above trained skills, beside PPO that learns the same tasks without them."""

import dataclasses
import math
import statistics
import tempfile
from collections.abc import Sequence

from gantry.agents import save_agent
from gantry.agents.ppo import PPOConfig
from gantry.agents.protocol import Agent, AgentConfig, Metrics
from gantry.benchmark.cases import FIRST_SEED
from gantry.benchmark.in_processes import in_processes
from gantry.benchmark.rows import Report, Row, chosen_parts
from gantry.runs.evaluate import evaluate_agent
from gantry.runs.recipes import recipe_for
from gantry.runs.train import AboveSkills, close_agent, make_agent
from gantry.types import Json

EPISODES = 20
"""Test episodes of each evaluation."""


@dataclasses.dataclass(frozen=True)
class _Task:
    """A task, the one in which its skill is trained, and what counts as solved."""

    name: str
    env_id: str
    skill_env_id: str
    skill_options: Json
    skill_steps: int
    """Steps of training the skill."""
    upper: str
    """The agent above."""
    metric: str
    solved: float
    """Mean of the metric over test episodes that counts as solved."""
    flat_steps: int
    """Steps that PPO without skills is given."""
    every: tuple[int, int]
    """Steps between evaluations: of PPO without skills, and decisions of the level above."""
    upper_steps: int = 1_600
    """Decisions of the level above."""
    skill_config: AgentConfig | None = None
    """Settings of training the skill; None: its recipe's."""


HOUSE = _Task(
    "eight rooms", "gantry/VacuumHouse-v0", "gantry/VacuumHouse-v0", {"observation": "asked", "start": "anywhere"},
    20_480, "dqn", "coverage", 0.95, 131_072, (65_536, 160),
)  # fmt: skip
ARM = _Task(
    "three targets in order", "gantry/ReachPlanarOrder-v0", "gantry/ReachPlanar-v0", {}, 307_200, "dqn", "visited",
    0.95, 600_000, (102_400, 160), skill_config=PPOConfig(
        num_envs=64, rollout_steps=32, epochs=6, minibatch_size=512, learning_rate=1e-3,
        learning_rate_schedule="linear", gamma=0.97, activation="relu",
    ),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Case:
    """One training, with skills or without."""

    task: _Task
    above: bool
    seed: int


@dataclasses.dataclass(frozen=True)
class Learned:
    """What one training brought."""

    steps: float
    """Steps of the task until it was solved, those of training skills aside; infinite where it was not."""
    best: float
    """Largest mean of the metric over test episodes, of all evaluations."""
    length: float
    """Mean length of the test episodes of the last evaluation (steps of the task)."""


TASKS = {"house": HOUSE, "arm": ARM}


def measure(report: Report, seeds: int = 5, processes: int = 1, only: Sequence[str] = ()) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds.
        processes: trainings at a time.
        only: which of `TASKS`; none: all.

    Raises:
        GantryError: there is no such part.
    """
    for task in (TASKS[name] for name in chosen_parts("skills", TASKS, only)):
        target = 1.0 / 3.0 if task is HOUSE else None
        above = _results(report, task, True, seeds, processes)
        flat = _results(report, task, False, seeds, processes)
        upper, whole = above, above + task.skill_steps
        reached = min(flat, task.flat_steps)
        note = (
            "" if flat <= task.flat_steps else f"PPO alone did not within {task.flat_steps:,} steps, which count here"
        )
        for what, steps in (("skills' training included", whole), ("without the skills' training", upper)):
            name = f"{task.name}: steps with skills over PPO's without, {what}"
            report(Row(name, steps / reached if math.isfinite(steps) else None, "×", target, "lower", note))


def _results(report: Report, task: _Task, above: bool, seeds: int, processes: int) -> float:
    """Train from several seeds, report the medians, and return that of the steps."""
    cases = [_Case(task, above, seed) for seed in range(FIRST_SEED, FIRST_SEED + seeds)]
    learned = list(in_processes(train_case, cases, processes))
    who = f"{task.upper} above skills" if above else "PPO without skills"
    steps = statistics.median(each.steps for each in learned)
    said = ", ".join("–" if math.isinf(each.steps) else f"{each.steps:,.0f}" for each in learned)
    until = f"{task.name}: {who}: steps to {task.solved:.0%} {task.metric}, median of {seeds} seeds"
    report(Row(until, None if math.isinf(steps) else steps, "steps", note=said))
    best = [each.best for each in learned]
    spread = ", ".join(f"{value:.3f}" for value in best)
    report(Row(f"{task.name}: {who}: best {task.metric}, median", statistics.median(best), "", note=spread))
    length = statistics.median(each.length for each in learned)
    report(Row(f"{task.name}: {who}: steps of an episode, median", length, "steps"))
    return steps


def train_case(case: _Case) -> Learned:
    """Train a case until it is solved or its steps are spent."""
    task = case.task
    if not case.above:
        recipe = recipe_for(task.env_id, "ppo")
        return _learned(task, "ppo", recipe.config, task.flat_steps, case.seed, dict(recipe.env_options), task.every[0])
    with tempfile.TemporaryDirectory() as folder:
        config = task.skill_config or recipe_for(task.skill_env_id, "ppo", task.skill_options).config
        skill = make_agent("ppo", task.skill_env_id, config, case.seed, task.skill_options)
        skill.learn(task.skill_steps)
        save_agent(skill, folder)
        close_agent(skill)
        recipe = recipe_for(task.env_id, task.upper, {"skills": True})
        options: Json = {**recipe.env_options, "skills": [folder], "skill_steps": recipe.skill_steps}
        return _learned(task, task.upper, recipe.config, task.upper_steps, case.seed, options, task.every[1])


def _learned(task: _Task, agent: str, config: AgentConfig, total: int, seed: int, options: Json, every: int) -> Learned:
    """Train one agent, and evaluate it again and again until the task is solved."""
    learner = make_agent(agent, task.env_id, config, seed, options)
    found = Learned(math.inf, 0.0, 0.0)
    evaluated = 0

    def look(agent: Agent, metrics: Metrics) -> bool:
        nonlocal found, evaluated
        if agent.steps // every == evaluated and agent.steps < total:
            return True
        evaluated = agent.steps // every
        result = evaluate_agent(agent, task.env_id, EPISODES, env_options=options, purpose="test")
        value = result.metrics[task.metric]
        steps = agent.env.environment_steps if isinstance(agent.env, AboveSkills) else agent.steps
        found = Learned(float(steps) if value >= task.solved else math.inf, max(found.best, value), result.length_mean)
        return value < task.solved

    learner.learn(total, look)
    close_agent(learner)
    return found
