"""Our side of a benchmark: an agent with its recipe or its defaults, trained in a run's folder."""

import dataclasses
from pathlib import Path

from gantry.agents.protocol import Agent
from gantry.benchmark.checkpoints import Checkpoints
from gantry.benchmark.plan import Cell
from gantry.files import config_to_json
from gantry.runs.evaluate import Evaluation, evaluate_agent
from gantry.runs.evaluation_callback import acting_copy
from gantry.runs.folder import Run, RunConfig, current_versions
from gantry.runs.pace import UNBOUNDED
from gantry.runs.recipes import default_settings, find_recipe, stepping
from gantry.runs.scores import score
from gantry.runs.seeds import Purpose
from gantry.runs.train import close_agent, make_agent
from gantry.types import Json


class OurTraining:
    """One of our agents and its training environments.

    Args:
        cell: what to train.
        folder: of the run.
    """

    def __init__(self, cell: Cell, folder: Path) -> None:
        self._cell, self._run = cell, Run(folder)
        asked = cell.env_id, cell.algorithm, cell.env_options
        recipe = find_recipe(*asked) if cell.protocol.recipes else None
        config = default_settings(*asked) if recipe is None else recipe.config
        self.env_options: Json = {**({} if recipe is None else recipe.env_options), **cell.env_options}
        how = stepping(cell.env_id, cell.env_options)
        of_defaults = f"default settings for environments stepped {how}"
        self.note = of_defaults if recipe is None else f"recipe{recipe.source and f' ({recipe.source})'}"
        """Where its settings are from."""
        self.settings: Json = config_to_json(config)
        self.num_envs: int = config.num_envs
        self._agent = make_agent(cell.algorithm, cell.env_id, config, cell.seed, self.env_options)
        self._copy: Agent | None = None
        self._total = cell.protocol.steps or (UNBOUNDED if recipe is None else recipe.total_steps)
        self._config = RunConfig(
            cell.env_id, self.env_options, cell.algorithm, cell.seed, self._total, self.settings, current_versions()
        )
        self._run.write_config(self._config)

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self._agent.steps

    def learn(self, checkpoints: Checkpoints) -> None:
        """Train until the budget or the recipe's steps end.

        Schedules of settings run over the budget: where it is in seconds, by the training's clock, so that nobody has
        to guess how many steps will fit.
        """

        def on_update(agent: object, metrics: dict[str, float]) -> bool:
            row = {
                "steps": metrics["steps"],
                "score": score(self._cell.env_id, metrics["return_mean"], metrics["length_mean"]),
                **metrics,
                "wall_seconds": round(checkpoints.seconds, 3),
            }
            self._run.append_metrics(row)
            going_on = checkpoints(self._agent.steps)
            if self._cell.protocol.seconds is not None:
                self._follow_clock(checkpoints)
            return going_on

        self._agent.learn(self._total, on_update)

    def _follow_clock(self, checkpoints: Checkpoints) -> None:
        """Let schedules have run as far as the budget has been spent."""
        steps = self._agent.steps
        spent = max(checkpoints.spent(steps, checkpoints.seconds), steps / self._total)
        self._agent.stepper.schedule_steps = max(1, round(steps / spent))

    def evaluate(self, episodes: int, purpose: Purpose) -> Evaluation:
        """Play episodes with the deterministic policy."""
        self._copy = acting_copy(self._agent, self._copy)
        return evaluate_agent(self._copy, self._cell.env_id, episodes, 0, self.env_options, purpose)

    def policy(self) -> Agent:
        """Return the deterministic policy, for a film."""
        return acting_copy(self._agent, self._copy)

    def save(self) -> None:
        """Write metrics and policy into the run's folder."""
        from gantry.agents import save_agent

        self._run.metrics.flush()
        taken = max(1, self._agent.steps)
        if taken != self._total:
            self._run.write_config(dataclasses.replace(self._config, total_steps=taken))
        save_agent(self._agent, self._run.folder)

    def close(self) -> None:
        """Close the training environments."""
        close_agent(self._agent)
