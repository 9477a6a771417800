"""Training: where environment, agent and run folder are built, and the agent learns."""

import dataclasses
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from gantry.agents import agent_class, config_class
from gantry.agents.protocol import Agent, AgentConfig, Metrics
from gantry.errors import GantryError
from gantry.files import config_from_json, config_to_json
from gantry.runs.environments import canonical_id, open_env
from gantry.runs.folder import Run, RunConfig, current_versions
from gantry.runs.scores import score
from gantry.runs.seeds import environment_seed
from gantry.types import Options

CHECKPOINT_SECONDS = 10.0
"""Training time between checkpoints: what a kill may cost."""

Progress = Callable[[Metrics], None]


@runtime_checkable
class CountsDivergences(Protocol):
    """An environment that counts its simulations that blew up."""

    divergences: int


def make_agent(
    agent: str, env_id: str, config: AgentConfig, seed: int = 0, env_options: Options | None = None
) -> Agent:
    """Build an agent with its training environments.

    Args:
        agent: the agent's id.
        env_id: Gantry's, Gymnasium's or `module:ID`.
        config: the agent's settings; `num_envs` environments are opened.
        seed: of weights, exploration and shuffling; environments get theirs from the training range.
        env_options: passed on to the environment.

    Raises:
        GantryError: no such agent or environment, or the agent cannot handle its spaces.
    """
    env_seed = environment_seed("training", seed, config.num_envs)
    env = open_env(env_id, config.num_envs, env_options)
    learner = agent_class(agent)(env, config, seed=seed, env_seed=env_seed)
    learner.env_id = canonical_id(env_id)
    return learner


def build_agent(written: RunConfig) -> Agent:
    """Build the agent of a run, with its training environments, from nothing but its `config.json`."""
    config = config_from_json(config_class(written.agent), written.config, "config.json")
    return make_agent(written.agent, written.env_id, config, written.seed, written.env_options)


def train(
    run: Run,
    env_id: str,
    agent: str,
    config: AgentConfig,
    total_steps: int,
    seed: int = 0,
    env_options: Options | None = None,
    progress: Progress | None = None,
) -> Agent:
    """Train a new agent in a new run.

    Args:
        run: the folder to fill.
        env_id: Gantry's, Gymnasium's or `module:ID`.
        agent: the agent's id.
        config: the agent's settings.
        total_steps: environment steps to learn from.
        seed: of everything random; environments get theirs from the training range.
        env_options: passed on to the environment.
        progress: called with the metrics of each update.

    Returns:
        The trained agent.

    Raises:
        GantryError: bad settings, a folder that holds a run already or cannot be written, a diverging loss.
        KeyboardInterrupt: the work so far is saved first.
    """
    _check_budget(total_steps)
    if run.exists():
        raise GantryError(f"{run.folder} already holds a run; resume it (--resume) or choose another folder")
    learner = make_agent(agent, env_id, config, seed, env_options)
    written = RunConfig(
        canonical_id(env_id),
        dict(env_options or {}),
        agent.lower(),
        seed,
        total_steps,
        config_to_json(config),
        current_versions(),
    )
    run.write_config(written)
    return _learn(run, written, learner, 0.0, progress)


def resume(run: Run, total_steps: int | None = None, progress: Progress | None = None) -> Agent:
    """Continue a run that was stopped, to the same numbers as if it had never stopped.

    Args:
        run: its folder.
        total_steps: a new budget, counted from the run's beginning; None keeps the one it was given.
        progress: called with the metrics of each update.

    Returns:
        The trained agent.

    Raises:
        GantryError: no run, a damaged one, or a budget below 1.
    """
    written = run.read_config()
    if total_steps is not None:
        _check_budget(total_steps)
    agent = build_agent(written)
    # A run killed before its first checkpoint begins again.
    wall_seconds = run.load_checkpoint(agent) if run.can_resume() else 0.0
    if total_steps is not None and total_steps != written.total_steps:
        written = dataclasses.replace(written, total_steps=total_steps)
        run.write_config(written)
    return _learn(run, written, agent, wall_seconds, progress)


def _check_budget(total_steps: int) -> None:
    if total_steps < 1:
        raise GantryError(f"the number of steps must be at least 1, not {total_steps}")


def _learn(run: Run, written: RunConfig, agent: Agent, wall_before: float, progress: Progress | None) -> Agent:
    """Let the agent learn, writing metrics and checkpoints; save whatever ends it."""
    started = saved = time.perf_counter()
    steps_before = agent.steps
    simulator = agent.env.unwrapped if isinstance(agent.env.unwrapped, CountsDivergences) else None

    def wall_seconds() -> float:
        return wall_before + time.perf_counter() - started

    def on_update(learner: Agent, metrics: Metrics) -> None:
        nonlocal saved
        now = time.perf_counter()
        row = {
            "steps": metrics["steps"],
            "score": score(written.env_id, metrics["return_mean"], metrics["length_mean"]),
            **metrics,
            "divergences": float(simulator.divergences if simulator is not None else 0),
            "wall_seconds": round(wall_seconds(), 3),
            "steps_per_second": round((learner.steps - steps_before) / (now - started), 1),
        }
        run.append_metrics(row)
        if now - saved > CHECKPOINT_SECONDS:
            run.save_checkpoint(learner, wall_seconds())
            saved = time.perf_counter()
        if progress is not None:
            progress(row)

    try:
        agent.learn(written.total_steps, on_update)
    finally:
        # Also after an interrupt or a diverging loss: the agent is as it was after its last whole update.
        if agent.steps > 0:
            run.save_checkpoint(agent, wall_seconds())
    return agent
