"""Training: the composition root, which builds environment, agent and run folder and lets the agent learn."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from gantry.agents import agent_class
from gantry.agents.parts.policy_file import config_from_json, config_to_json
from gantry.agents.parts.vector_stepper import open_environment
from gantry.errors import GantryError
from gantry.plots import model_calibration as accuracy_plot
from gantry.runs.folder import Run, RunConfig, current_versions
from gantry.runs.scores import score
from gantry.runs.seeds import environment_seed

CHECKPOINT_SECONDS = 10.0
"""How much work a kill may cost."""

Progress = Callable[[dict[str, float]], None]


def build_agent(config: RunConfig) -> Any:
    """Build the agent of a run, with its environments, from nothing but its configuration."""
    kind = agent_class(config.agent)
    settings = config_from_json(kind.config_class, config.config, "config.json")
    seed = environment_seed("training", config.seed, settings.num_envs)
    env = open_environment(config.environment, settings.num_envs, config.environment_options)
    agent = kind(env, settings, seed=config.seed, env_seed=seed)
    agent.environment = config.environment
    return agent


def train(
    run: Run,
    environment: str,
    agent: str,
    settings: Any,
    total_steps: int,
    seed: int = 0,
    environment_options: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Any:
    """Train a new agent in a new run.

    Args:
        run: the folder to fill.
        environment: id.
        agent: registered name.
        settings: the agent's configuration dataclass.
        total_steps: environment steps to learn from.
        seed: of everything; environments get theirs from the training range.
        environment_options: passed on to the environment.
        progress: called with the metrics of each update.

    Returns:
        The trained agent.

    Raises:
        GantryError: bad settings, a folder that holds a run already or cannot be written, a diverging loss.
        KeyboardInterrupt: the work so far is saved first.
    """
    if total_steps < 1:
        raise GantryError(f"the number of steps must be at least 1, not {total_steps}")
    if run.exists():
        raise GantryError(f"{run.folder} already holds a run; go on with it (--resume) or choose another folder")
    config = RunConfig(
        environment,
        environment_options or {},
        agent,
        seed,
        total_steps,
        config_to_json(settings),
        current_versions(),
    )
    learner = build_agent(config)
    run.write_config(config)
    return _learn(run, config, learner, 0.0, progress)


def resume(run: Run, total_steps: int | None = None, progress: Progress | None = None) -> Any:
    """Go on with a run that was stopped, to the same numbers as if it never had been.

    Args:
        run: its folder.
        total_steps: a new budget, counted from the run's beginning; None keeps the one it was given.
        progress: called with the metrics of each update.

    Returns:
        The trained agent.

    Raises:
        GantryError: no run, a damaged one, or a budget below 1.
    """
    config = run.read_config()
    if total_steps is not None and total_steps < 1:
        raise GantryError(f"the number of steps must be at least 1, not {total_steps}")
    agent = build_agent(config)
    # A run killed before its first checkpoint begins again.
    wall_seconds = run.load_checkpoint(agent) if run.can_resume() else 0.0
    if total_steps is not None and total_steps != config.total_steps:
        config = dataclasses.replace(config, total_steps=total_steps)
        run.write_config(config)
    return _learn(run, config, agent, wall_seconds, progress)


def _learn(run: Run, config: RunConfig, agent: Any, wall_before: float, progress: Progress | None) -> Any:
    """Let the agent learn, writing metrics and checkpoints; save whatever ends it."""
    begun = saved = time.perf_counter()
    steps_before = agent.steps

    def wall_seconds() -> float:
        return wall_before + time.perf_counter() - begun

    def on_update(learner: Any, metrics: dict[str, float]) -> None:
        nonlocal saved
        now = time.perf_counter()
        row = {
            "steps": metrics["steps"],
            "score": score(config.environment, metrics["return_mean"], metrics["length_mean"]),
            **metrics,
            "divergences": float(getattr(learner.env.unwrapped, "divergences", 0)),
            "wall_seconds": round(wall_seconds(), 3),
            "steps_per_second": round((learner.steps - steps_before) / (now - begun), 1),
        }
        run.append_metrics(row)
        if now - saved > CHECKPOINT_SECONDS:
            run.save_checkpoint(learner, wall_seconds())
            saved = time.perf_counter()
        if progress is not None:
            progress(row)

    try:
        agent.learn(config.total_steps, on_update)
    finally:
        # Also after an interrupt or a diverging loss: the agent is as it was after its last whole update.
        if agent.steps > 0:
            run.save_checkpoint(agent, wall_seconds())
    if getattr(agent, "accuracy", None):
        accuracy_plot.draw(run.folder / "dynamics.png", agent.accuracy)
    return agent
