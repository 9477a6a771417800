"""Evaluation during training: the policy's own score on seeds that training never uses, and the best policy kept."""

import dataclasses
import math
import time
from typing import Any

from gantry.agents import agent_class
from gantry.agents.protocol import Agent, EpisodicActor
from gantry.errors import GantryError
from gantry.files import config_from_json, config_to_json
from gantry.runs.evaluate import check_episodes, evaluate_agent
from gantry.runs.folder import Run
from gantry.spaces.maps import Spaces
from gantry.types import Json, Options

SEED_BLOCK = 1000
"""Block of evaluation seeds; `gantry evaluate` uses block 0, on which the policy chosen here was not chosen."""
EVALUATIONS = 50
"""Evaluations of a training that names a score to stop at but not how often to look."""


@dataclasses.dataclass(frozen=True)
class EvaluationPlan:
    """When and how the policy is evaluated during training; it never changes a number of the training."""

    every_steps: int | None = None
    """Environment steps between evaluations."""
    every_seconds: float | None = None
    """Or seconds of training between evaluations."""
    episodes: int = 20
    """Episodes of an evaluation, always from the same seeds."""
    until: float | None = None
    """Stop training once an evaluation scores this much."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError."""
        if self.every_steps is not None and self.every_seconds is not None:
            raise GantryError("evaluate every so many steps or every so many seconds, not both")
        for what, value in (("steps", self.every_steps), ("seconds", self.every_seconds)):
            if value is not None and not 0 < value < math.inf:
                raise GantryError(f"the {what} between evaluations must be positive, not {value}")
        check_episodes(self.episodes)
        if self.until is not None and not math.isfinite(self.until):
            raise GantryError(f"the score to stop at must be a number, not {self.until}")

    def settled(self, total_steps: int) -> "EvaluationPlan":
        """Return it with `every_steps` where it does not say how often to evaluate."""
        if self.every_steps is not None or self.every_seconds is not None:
            return self
        return dataclasses.replace(self, every_steps=math.ceil(total_steps / EVALUATIONS))

    def to_json(self) -> Json:
        """Return it as JSON values, for `config.json`."""
        return config_to_json(self)

    @staticmethod
    def from_json(content: Options) -> "EvaluationPlan":
        """Return what `to_json` described; raises GantryError."""
        return config_from_json(EvaluationPlan, content, "config.json")


class TrainingEvaluator:
    """Evaluates the policy of an agent that learns, by a copy that only acts, so that learning is not touched.

    Args:
        run: gets a row of `evaluations.csv` per evaluation, and the best policy.
        agent: the one that learns.
        plan: when and how.
        env_id: where it learns.
        env_options: of the environment.

    Attributes:
        seconds: time that evaluations have taken since this object was made.
        reached: the last evaluation scored what training was to stop at.
    """

    def __init__(self, run: Run, agent: Agent, plan: EvaluationPlan, env_id: str, env_options: Json) -> None:
        self._run, self._agent, self._plan = run, agent, plan
        self._env_id, self._env_options = env_id, env_options
        self._every: float = plan.every_steps or plan.every_seconds or math.inf
        rows = run.evaluations.read()
        self._best = max((row.get("score", -math.inf) for row in rows), default=-math.inf)
        self._evaluated = rows[-1]["steps"] if rows else 0.0
        self._passed = 0.0
        self.reached = bool(rows) and self._reaches(rows[-1].get("score", -math.inf))
        self.seconds = 0.0
        self._copy: Agent | None = None
        self._unsaved: Agent | None = None
        self._unwritten: list[dict[str, float]] = []

    def begin(self, wall_seconds: float) -> None:
        """Count from here, after so many seconds of training."""
        self._passed = self._now(wall_seconds)

    def after_update(self, wall_seconds: float) -> dict[str, float] | None:
        """Evaluate if it is time; return the row of `evaluations.csv`, or None."""
        before, self._passed = self._passed, self._now(wall_seconds)
        if before // self._every == self._passed // self._every:
            return None
        return self.evaluate(wall_seconds)

    def at_end(self, wall_seconds: float) -> dict[str, float] | None:
        """Evaluate the last policy, unless that has just been done; return the row, or None."""
        return None if self._evaluated == self._agent.steps else self.evaluate(wall_seconds)

    def evaluate(self, wall_seconds: float) -> dict[str, float]:
        """Evaluate the policy as it is now; return the row of `evaluations.csv`, which `write` writes."""
        started = time.perf_counter()
        copy = self._copy = acting_copy(self._agent, None if self._copy is self._unsaved else self._copy)
        result = evaluate_agent(copy, self._env_id, self._plan.episodes, SEED_BLOCK, self._env_options, "evaluation")
        if result.score > self._best or not (self._unsaved or self._run.best.exists()):
            self._best = max(result.score, self._best)
            self._unsaved = copy
        self._evaluated = float(self._agent.steps)
        self.reached = self._reaches(result.score)
        took = time.perf_counter() - started
        self.seconds += took
        row = {
            "steps": self._evaluated,
            "score": result.score,
            "score_iqm": result.score_iqm,
            "score_low": result.score_ci95[0],
            "score_high": result.score_ci95[1],
            "success": math.nan if result.success is None else result.success,
            "return_mean": result.return_mean,
            "length_mean": result.length_mean,
            "reward_mean": result.return_mean / result.length_mean if result.used_mean is None else result.used_mean,
            "wall_seconds": round(wall_seconds, 3),
            "evaluation_seconds": round(took, 3),
        }
        self._unwritten.append(row)
        return row

    def write(self) -> None:
        """Save the best policy and the rows that are not yet on the disk.

        Raises:
            CannotWrite: no space, no permission; the next call tries again.
        """
        from gantry.agents import save_agent  # imports PyTorch

        if self._unsaved is not None:
            save_agent(self._unsaved, self._run.best)
            self._unsaved = None
        while self._unwritten:
            self._run.evaluations.append(self._unwritten[0])
            self._unwritten.pop(0)

    def _now(self, wall_seconds: float) -> float:
        return wall_seconds if self._plan.every_seconds is not None else float(self._agent.steps)

    def _reaches(self, score: float) -> bool:
        return self._plan.until is not None and score >= self._plan.until


def acting_copy(agent: Agent, copy: Agent | None = None) -> Agent:
    """Return an agent that acts as a learning one would after it was saved and loaded, without touching that one.

    Args:
        agent: the one that learns.
        copy: what this function returned for it before, to be brought up to date; None makes one.
    """
    if copy is None or isinstance(copy, EpisodicActor):  # which would carry something over from its last episodes
        config: Any = agent.config
        spaces = Spaces(agent.env.single_observation_space, agent.env.single_action_space, config.num_envs)
        copy = agent_class(agent.name)(spaces, config)
        copy.stepper.env_id = agent.stepper.env_id
    copy.stepper.steps = agent.steps
    copy.checkpoint.load_policy_state(agent.checkpoint.policy_state(), "the policy")
    return copy
