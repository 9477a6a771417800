"""`gantry bench adaptation`: how a memory adapts to hidden physics, from episode to episode of a trial.

Beside it: an oracle, which is PPO that observes the physics; PPO without a memory under the same domain randomization;
and iterative LQR, which plans with the physics. All are scored on the same held-out physics, inside the range of
training and outside of it. Regret is what a score lacks of iterative LQR's, as a share of that.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from gantry.agents.protocol import AgentConfig
from gantry.benchmark.cases import FIRST_SEED
from gantry.benchmark.in_processes import in_processes
from gantry.benchmark.plan import TRIALS
from gantry.benchmark.rows import Report, Row, chosen_parts
from gantry.envs.domain_randomization import Range, parse_quantity
from gantry.optimal_control.solve import solve
from gantry.runs.evaluate import evaluate_agent
from gantry.runs.recipes import recipe_for
from gantry.runs.train import close_agent, make_agent
from gantry.types import Json

ENVIRONMENTS = {"balance": "gantry/CartPoleBalance-v0", "swing-up": "gantry/CartPoleSwingUp-v0"}
"""Parts of the benchmark → environment."""
TRIAL: Json = {"trial": TRIALS["trial"]}
"""Options of the environments in which a memory adapts: four episodes of 125 steps."""
EPISODE_STEPS = 125
ONE_CORE: Json = {"num_threads": 1}
"""Options with which a simulation takes one core, as many run at once; results do not depend on it."""
PHYSICS: dict[str, str] = TRIALS["physics"]
"""The physics of training."""
BEYOND = 1.5
"""Outside, each quantity is up to this factor below its lowest value of training or above its highest."""
SAMPLES = 24
"""Held-out physics, inside and outside each."""
PLACES = ("inside", "outside")
Agent = Literal["RL²", "oracle", "no memory"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One training."""

    env_id: str
    agent: Agent
    seed: int
    steps: int | None = None
    """Environment steps; None: the recipe's."""


Scores = dict[str, tuple[float, ...]]
"""Where the physics is from → the mean scores of the first, second, … episode; for RL² also with sampled actions."""
SAMPLED = ", sampled actions"


def held_out(where: str, count: int = SAMPLES) -> dict[str, list[float]]:
    """Return physics (count,) of each quantity that no training has seen; motors are reversed in every other one."""
    random = np.random.default_rng(PLACES.index(where))
    physics: dict[str, list[float]] = {}
    for name, spread in ranges().items():
        values = random.uniform(spread.low, spread.high, count)
        if where == "outside":
            factor = random.uniform(1.0, BEYOND, count)
            values = np.where(random.random(count) < 0.5, spread.low / factor, spread.high * factor)
        physics[name] = values.tolist()
    return {**physics, "motor_sign": [1.0 - 2.0 * (index % 2) for index in range(count)]}


def ranges() -> dict[str, Range]:
    """Return the ranges of training of all quantities but the motor's sign."""
    parsed = {name: parse_quantity(text) for name, text in PHYSICS.items() if name != "motor_sign"}
    return {name: spread for name, spread in parsed.items() if isinstance(spread, Range)}


def measure(
    report: Report, seeds: int = 5, processes: int = 1, only: Sequence[str] = (), steps: int | None = None
) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds.
        processes: trainings at a time.
        only: parts, of `ENVIRONMENTS`; empty for all.
        steps: environment steps of each training, to try it out; None: the recipes'.

    Raises:
        GantryError: an unknown part.
    """
    for env_id in [ENVIRONMENTS[part] for part in chosen_parts("adaptation", ENVIRONMENTS, only)]:
        plans = [(env_id, where, index) for where in PLACES for index in range(SAMPLES)]
        planned = np.reshape(list(in_processes(planned_score, plans, processes)), (len(PLACES), SAMPLES))
        optimum = dict(zip(PLACES, planned.mean(axis=1).tolist(), strict=True))
        name = env_id.removeprefix("gantry/")
        for where in PLACES:
            report(Row(f"{name}, {where}: iterative LQR, which knows the physics", optimum[where], "score"))
        adaptive = _median(report, env_id, "RL²", seeds, processes, steps, optimum)
        oracle = _median(report, env_id, "oracle", seeds, processes, steps, optimum)
        _median(report, env_id, "no memory", seeds, processes, steps, optimum)
        for where in PLACES:
            share = min(adaptive[where][1:]) / oracle[where][0]
            what = f"{name}, {where}: RL² from the second episode on, the lowest over the oracle's"
            report(Row(what, share, "×", 0.9 if where == "inside" else None))


def _median(
    report: Report, env_id: str, agent: Agent, seeds: int, processes: int, steps: int | None,
    optimum: Mapping[str, float],
) -> Scores:  # fmt: skip
    """Train from several seeds, report the medians of each episode's scores, and return them."""
    cases = [Case(env_id, agent, seed, steps) for seed in range(FIRST_SEED, FIRST_SEED + seeds)]
    found = list(in_processes(trained, cases, processes))
    medians: Scores = {}
    for where in found[0]:
        episodes = list(zip(*(scores[where] for scores in found), strict=True))
        medians[where] = tuple(map(statistics.median, episodes))
        for place, (median, each) in enumerate(zip(medians[where], episodes, strict=True), 1):
            of = f", episode {place}" if len(episodes) > 1 else ""
            regret = 1.0 - median / optimum[where.removesuffix(SAMPLED)]
            note = f"regret {regret:.1%}; seeds: {', '.join(f'{score:.0f}' for score in each)}"
            report(Row(f"{env_id.removeprefix('gantry/')}, {where}: {agent}{of}", median, "score", note=note))
    return medians


def trained(case: Case) -> Scores:
    """Train, and return the scores in held-out physics."""
    options, name = _options(case.agent)
    recipe = recipe_for(case.env_id, name, TRIAL if name == "recurrent-ppo" else None)
    config: AgentConfig = recipe.config
    learner = make_agent(name, case.env_id, config, case.seed, {**options, "physics": PHYSICS})
    learner.learn(case.steps or recipe.total_steps)
    scores: Scores = {}
    for where in PLACES:
        tested = {**options, "physics": held_out(where)}
        result = evaluate_agent(learner, case.env_id, SAMPLES, env_options=tested, purpose="test")
        scores[where] = result.trial_scores or (result.score,)
        if case.agent == "RL²":
            explores = evaluate_agent(
                learner, case.env_id, SAMPLES, env_options=tested, purpose="test", deterministic=False
            )
            scores[f"{where}{SAMPLED}"] = explores.trial_scores
    close_agent(learner)
    return scores


def _options(agent: Agent) -> tuple[Json, str]:
    """Return the environment's options, beside the physics, and the agent's id."""
    if agent == "RL²":
        return {**TRIAL, **ONE_CORE}, "recurrent-ppo"
    return {"max_episode_steps": EPISODE_STEPS, "observe_physics": agent == "oracle", **ONE_CORE}, "ppo"


def planned_score(case: tuple[str, str, int]) -> float:
    """Return iterative LQR's score in one of the held-out physics, which it plans with."""
    env_id, where, index = case
    physics = {name: values[index] for name, values in held_out(where).items()}
    options: Json = {"physics": physics, "max_episode_steps": EPISODE_STEPS, **ONE_CORE}
    return solve(env_id, "ilqr", 1, index, options).evaluation.score
