"""Our side of a benchmark: an agent with its recipe or its defaults, trained in a run's folder."""

import time
from pathlib import Path

from gantry.agents import default_config
from gantry.agents.protocol import Agent
from gantry.benchmark.checkpoints import Checkpoints
from gantry.benchmark.plan import Cell
from gantry.files import config_to_json
from gantry.runs.evaluate import Evaluation, evaluate_agent
from gantry.runs.evaluation_callback import acting_copy
from gantry.runs.folder import Run, RunConfig, current_versions
from gantry.runs.recipes import find_recipe
from gantry.runs.scores import score
from gantry.runs.seeds import Purpose
from gantry.runs.train import close_agent, make_agent
from gantry.types import Json

CALIBRATION = 0.05
"""Share of a budget of seconds for which an agent without a recipe is tried, to know how many steps will fit."""


class OurTraining:
    """One of our agents and its training environments.

    Args:
        cell: what to train.
        folder: of the run.
    """

    def __init__(self, cell: Cell, folder: Path) -> None:
        self._cell, self._run = cell, Run(folder)
        recipe = find_recipe(cell.env_id, cell.algorithm, cell.env_options) if cell.protocol.recipes else None
        config = default_config(cell.algorithm) if recipe is None else recipe.config
        self.env_options: Json = {**({} if recipe is None else recipe.env_options), **cell.env_options}
        self.note = "default settings" if recipe is None else "recipe"
        """Where its settings are from."""
        self.settings: Json = config_to_json(config)
        self.num_envs: int = config.num_envs
        self._agent = make_agent(cell.algorithm, cell.env_id, config, cell.seed, self.env_options)
        self._copy: Agent | None = None
        self._total = self._total_steps(None if recipe is None else recipe.total_steps)
        self._run.write_config(
            RunConfig(
                cell.env_id, self.env_options, cell.algorithm, cell.seed, self._total, self.settings, current_versions()
            )
        )

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self._agent.steps

    def _total_steps(self, of_recipe: int | None) -> int:
        """Return the steps that schedules run over: the budget's, else the recipe's, else what fits in the seconds."""
        protocol = self._cell.protocol
        if protocol.steps is not None:
            return protocol.steps
        if of_recipe is not None:
            return of_recipe
        assert protocol.seconds is not None
        config = default_config(self._cell.algorithm)
        trial = make_agent(self._cell.algorithm, self._cell.env_id, config, self._cell.seed, self.env_options)
        began = time.perf_counter()
        allowed = CALIBRATION * protocol.seconds
        trial.learn(10**12, lambda _agent, _metrics: time.perf_counter() - began < allowed)
        rate = trial.steps / (time.perf_counter() - began)
        close_agent(trial)
        return max(1, round(rate * protocol.seconds))

    def learn(self, checkpoints: Checkpoints) -> None:
        """Train until the budget or the schedules end."""

        def on_update(agent: object, metrics: dict[str, float]) -> bool:
            row = {
                "steps": metrics["steps"],
                "score": score(self._cell.env_id, metrics["return_mean"], metrics["length_mean"]),
                **metrics,
                "wall_seconds": round(checkpoints.seconds, 3),
            }
            self._run.append_metrics(row)
            return checkpoints(self._agent.steps)

        self._agent.learn(self._total, on_update)

    def evaluate(self, episodes: int, purpose: Purpose) -> Evaluation:
        """Play episodes with the deterministic policy."""
        self._copy = acting_copy(self._agent, self._copy)
        return evaluate_agent(self._copy, self._cell.env_id, episodes, 0, self.env_options, purpose)

    def save(self) -> None:
        """Write metrics and policy into the run's folder."""
        from gantry.agents import save_agent

        self._run.metrics.flush()
        save_agent(self._agent, self._run.folder)

    def close(self) -> None:
        """Close the training environments."""
        close_agent(self._agent)
