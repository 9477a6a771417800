"""Training: where environment, agent and run folder are built, and the agent learns."""

import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from gymnasium.vector import VectorEnv

from gantry.agents import agent_class, config_class
from gantry.agents.protocol import Agent, AgentConfig, Metrics
from gantry.errors import CannotWrite, GantryError, shown
from gantry.files import config_from_json, config_to_json
from gantry.runs.datasets.prefill import DatasetReference, begin_from
from gantry.runs.environments import SKILLS, canonical_id, open_training_env
from gantry.runs.evaluation_callback import EvaluationPlan, TrainingEvaluator
from gantry.runs.folder import FolderMoved, Run, RunConfig, current_versions
from gantry.runs.interrupts import deferring
from gantry.runs.resumption import changed_run
from gantry.runs.scores import score
from gantry.runs.seeds import Purpose, environment_seed
from gantry.runs.snapshots import SnapshotKeeper
from gantry.types import Json, Options

CHECKPOINT_SECONDS = 10.0
"""Training time between checkpoints, at least: what a kill may cost."""
CHECKPOINT_SHARE = 0.02
"""Share of the training time that saving checkpoints may take; where a save takes long, they become rarer."""
MOST_STEPS = 2**63
"""Budgets are below this."""

Progress = Callable[[Metrics], None]
Say = Callable[[str], None]


class TrainingStopped(KeyboardInterrupt):
    """A signal ended the training; what had been learned until then is in the run's folder.

    Attributes:
        steps: environment steps that the last checkpoint holds; 0 where there is none.
    """

    def __init__(self, steps: int) -> None:
        super().__init__(f"stopped; the last checkpoint holds {steps:,} steps")
        self.steps = steps


def say_on_stderr(line: str) -> None:
    """Print a line on standard error."""
    print(f"gantry: {line}", file=sys.stderr)


@runtime_checkable
class AboveSkills(Protocol):
    """An environment whose steps take several of the one below, and that counts those."""

    environment_steps: int


@runtime_checkable
class CountsDivergences(Protocol):
    """An environment that counts its simulations that blew up."""

    divergences: int


def make_agent(
    agent: str,
    env_id: str,
    config: AgentConfig,
    seed: int = 0,
    env_options: Options | None = None,
    purpose: Purpose = "training",
) -> Agent:
    """Build an agent with its training environments.

    Args:
        agent: the agent's id.
        env_id: Gantry's, Gymnasium's or `module:ID`.
        config: the agent's settings; `num_envs` environments are opened.
        seed: of weights, exploration and shuffling, and of the environments within their range.
        env_options: passed on to the environment.
        purpose: the range that the environments' seeds are from.

    Raises:
        GantryError: no such agent or environment, or the agent cannot handle its spaces.
    """
    env_seed = environment_seed(purpose, seed, config.num_envs, env_id)
    env = open_training_env(env_id, config.num_envs, env_options)
    try:
        if SKILLS in (env_options or {}):
            from gantry.runs.skills.environment import discount_as

            discount_as(agent, config, env)
        learner = agent_class(agent)(env, config, seed=seed, env_seed=env_seed)
    except BaseException:
        env.close()
        raise
    learner.stepper.env_id = canonical_id(env_id)
    return learner


def close_agent(agent: Agent) -> None:
    """Close an agent's training environments."""
    if isinstance(agent.env, VectorEnv):
        agent.env.close()


def build_agent(written: RunConfig) -> Agent:
    """Build the agent of a run, with its training environments, from nothing but its `config.json`."""
    config = config_from_json(config_class(written.agent), written.config, "config.json")
    return make_agent(written.agent, written.env_id, config, written.seed, written.env_options)


def train(
    run: Run | Callable[[], Run],
    env_id: str,
    agent: str,
    config: AgentConfig,
    total_steps: int,
    seed: int = 0,
    env_options: Options | None = None,
    progress: Progress | None = None,
    evaluation: EvaluationPlan | None = None,
    evaluated: Progress | None = None,
    say: Say = say_on_stderr,
    data: Path | None = None,
    keep_snapshots: bool = False,
    begun: Callable[[Run], None] | None = None,
) -> Agent:
    """Train a new agent in a new run.

    Args:
        run: the folder to fill, or what chooses one, called once nothing speaks against the training.
        env_id: Gantry's, Gymnasium's or `module:ID`.
        agent: the agent's id.
        config: the agent's settings.
        total_steps: environment steps to learn from.
        seed: of everything random; environments get theirs from the training range.
        env_options: passed on to the environment.
        progress: called with the metrics of each update.
        evaluation: when to evaluate the policy during training, and the score to stop at; None: never.
        evaluated: called with the row of `evaluations.csv` of each evaluation.
        say: called with what the user should know although training goes on, in one line.
        data: the folder of a data set to begin from; None: from nothing.
        keep_snapshots: keep the policy after shares of the training, for a film of its progress.
        begun: called with the run when its folder is there and learning is about to begin.

    Returns:
        The trained agent, with its environments closed.

    Raises:
        GantryError: bad settings, a folder that holds a run already or cannot be written, a diverging loss.
        TrainingStopped: a signal asked for an end; the work so far was saved.
    """
    total_steps, seed, env_options = _budget(total_steps), _seed(seed), _plain_options(env_options or {})
    with contextlib.ExitStack() as at_end:
        if isinstance(run, Run):
            _refuse_existing(run)
        reference = DatasetReference.of(data) if data is not None else None
        learner = make_agent(agent, env_id, config, seed, env_options)
        at_end.callback(close_agent, learner)
        if reference is not None:
            begin_from(learner, reference, env_id)
        run = run if isinstance(run, Run) else run()
        at_end.enter_context(run.claimed())
        _refuse_existing(run)
        if begun is not None:
            begun(run)
        starts = config_to_json(config).get("learning_starts", 0)
        if total_steps < starts:
            say(
                f"nothing will be learned{' from the data' if data else ''}: the first {starts:,} steps are random "
                f"(--config.learning-starts), and there are {total_steps:,} in all (--steps)"
            )
        written = RunConfig(
            canonical_id(env_id),
            env_options,
            agent.lower(),
            seed,
            total_steps,
            config_to_json(config),
            current_versions(),
            evaluation.settled(total_steps).to_json() if evaluation is not None else None,
            data=reference.to_json() if reference is not None else None,
            snapshots=keep_snapshots or None,
        )
        run.write_config(written)
        return _learn(_Recorder(run, written, learner, 0.0, progress, evaluated, say))


def resume(
    run: Run,
    total_steps: int | None = None,
    progress: Progress | None = None,
    config: AgentConfig | None = None,
    env_options: Options | None = None,
    evaluation: EvaluationPlan | None = None,
    keep_schedules: bool = False,
    evaluated: Progress | None = None,
    say: Say = say_on_stderr,
    keep_snapshots: bool = False,
) -> Agent:
    """Continue a run that was stopped, to the same numbers as if it had never stopped, where nothing is changed.

    What is changed is written to `config.json`; what a run that has begun cannot change is refused.

    Args:
        run: its folder.
        total_steps: a new budget, counted from the run's beginning; None keeps the one it was given.
        progress: called with the metrics of each update.
        config: other settings of the agent; None keeps them.
        env_options: options of the environment, which must be those that the run has.
        evaluation: when to evaluate the policy; None keeps what the run was given.
        keep_schedules: let schedules of settings end where they did, instead of stretching them over the new budget.
        evaluated: called with the row of `evaluations.csv` of each evaluation.
        say: called with what the user should know although training goes on, in one line.
        keep_snapshots: keep the policy after shares of the training from here on, also where the run did not.

    Returns:
        The trained agent, with its environments closed.

    Raises:
        GantryError: no run, a damaged one, a budget that is spent already, or a change that is not possible.
        TrainingStopped: a signal asked for an end; the work so far was saved.
    """
    total_steps = None if total_steps is None else _budget(total_steps)
    env_options = None if env_options is None else _plain_options(env_options)
    if not run.exists():
        run.read_config()  # says what is missing
    with run.claimed(), contextlib.ExitStack() as at_end:
        before = run.read_config()
        written, remarks = changed_run(before, total_steps, config, env_options, evaluation, keep_schedules)
        written = dataclasses.replace(written, snapshots=keep_snapshots or written.snapshots)
        agent = build_agent(written)
        at_end.callback(close_agent, agent)
        # A run killed before its first checkpoint begins again.
        wall_seconds = 0.0
        if run.can_resume():
            try:
                wall_seconds = run.load_checkpoint(agent)
            except GantryError as error:
                if written.config == before.config:
                    raise
                raise GantryError(f"{error}; it was asked for other settings: {'; '.join(remarks)}") from error
        elif written.data is not None:
            begin_from(agent, DatasetReference.from_json(written.data), written.env_id)
        if written.total_steps != before.total_steps and written.total_steps < agent.steps:
            raise GantryError(
                f"{run.folder} has taken {agent.steps:,} steps already; --steps counts from its beginning: "
                "name a larger number"
            )
        if written != before:
            run.write_config(written)
        for remark in [*remarks, *run.continue_tables(agent.steps)]:
            say(remark)
        agent.stepper.schedule_steps = written.schedule_steps
        if 0 < agent.steps < written.total_steps and agent.stepper.begins_anew:
            say(
                f"the state of {written.env_id} cannot be saved: new episodes begin here, and the numbers are not "
                "those of an unbroken run"
            )
        recorder = _Recorder(run, written, agent, wall_seconds, progress, evaluated, say)
        if agent.steps >= written.total_steps:
            say(f"{run.folder} is finished: it has taken its {agent.steps:,} steps; a larger --steps goes on")
        elif recorder.evaluator is not None and recorder.evaluator.reached:
            say(f"{run.folder} is finished: it has reached the score that it was to stop at; a higher --until goes on")
        return _learn(recorder)


def _refuse_existing(run: Run) -> None:
    if run.exists():
        raise GantryError(f"{run.folder} already holds a run; resume it (--resume) or choose another folder")


def _budget(total_steps: object) -> int:
    """Return a number of steps as Python's; raises GantryError where it is none, or out of range."""
    if not isinstance(total_steps, int | float | np.number) or not 1 <= total_steps < MOST_STEPS:
        raise GantryError(f"the number of steps must be at least 1 and below 2^63, not {shown(total_steps)}")
    if total_steps != int(total_steps):
        raise GantryError(f"the number of steps must be a whole one, not {shown(total_steps)}")
    return int(total_steps)


def _seed(seed: object) -> int:
    """Return a seed as Python's number; raises GantryError where it is none."""
    if not isinstance(seed, int | np.integer):
        raise GantryError(f"a seed must be a whole number, not {shown(repr(seed))}")
    return int(seed)


def _is_plain(value: object) -> bool:
    """Return whether JSON takes a value as it is."""
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def _plain_options(env_options: Options) -> Json:
    """Return an environment's options as `config.json` holds them, with Python's numbers in place of NumPy's.

    Raises:
        GantryError: there are others among them.
    """
    plain: Json = dict(env_options)
    for name, value in env_options.items():
        try:
            plain[name] = value if _is_plain(value) else config_to_json(value)
            json.dumps({name: plain[name]})
        except (TypeError, ValueError, RecursionError):
            raise GantryError(
                f"the environment's option {shown(name)} must be a number, text, a list or a dictionary of these, as "
                f"config.json holds it, not {shown(repr(value))}; register the environment with it instead"
            ) from None
    return plain


class _Recorder:
    """Writes what an agent learns: metrics, evaluations and checkpoints that belong together."""

    def __init__(
        self,
        run: Run,
        written: RunConfig,
        agent: Agent,
        wall_before: float,
        progress: Progress | None,
        evaluated: Progress | None,
        say: Say,
    ) -> None:
        self.run, self.written, self.agent = run, written, agent
        self._progress, self._evaluated, self.say = progress, evaluated, say
        self.evaluator: TrainingEvaluator | None = None
        if written.evaluation is not None:
            plan = EvaluationPlan.from_json(written.evaluation)
            self.evaluator = TrainingEvaluator(run, agent, plan, written.env_id, written.env_options)
            self.evaluator.begin(wall_before)
        self._keeper = SnapshotKeeper(run, agent, written.total_steps) if written.snapshots else None
        env = agent.env.unwrapped
        self._simulator = env if isinstance(env, CountsDivergences) else None
        self._above = agent.env if isinstance(agent.env, AboveSkills) else None
        if self._above is not None and agent.steps and (rows := run.read_metrics()):
            self._above.environment_steps = int(rows[-1]["environment_steps"])
        self._wall_before, self._steps_before = wall_before, agent.steps
        self._started = self._last_save = time.perf_counter()
        self._interval = CHECKPOINT_SECONDS
        self._unwritten: list[Metrics] = []  # rows that the disk had no room for
        self.saved_steps = agent.steps

    def begin(self) -> None:
        """Keep the policy that training begins with, where snapshots are asked for.

        Raises:
            CannotWrite: there is no room for it.
        """
        if self._keeper is not None:
            self._keeper.keep()

    def seconds(self) -> float:
        """Return the training time of this execution, without evaluations."""
        evaluating = self.evaluator.seconds if self.evaluator is not None else 0.0
        return time.perf_counter() - self._started - evaluating

    def wall_seconds(self) -> float:
        """Return the training time since the run's beginning, without evaluations."""
        return self._wall_before + self.seconds()

    def add(self, metrics: Metrics) -> None:
        """Write a row of metrics after an update; evaluate and save where it is time."""
        row = {
            "steps": metrics["steps"],
            "score": score(
                self.written.env_id, metrics.get("objective_mean", metrics["return_mean"]), metrics["length_mean"]
            ),
            **metrics,
            **({} if self._above is None else {"environment_steps": float(self._above.environment_steps)}),
            "divergences": float(self._simulator.divergences if self._simulator is not None else 0),
            "wall_seconds": round(self.wall_seconds(), 3),
            "steps_per_second": round((self.agent.steps - self._steps_before) / max(self.seconds(), 1e-9), 1),
        }
        told = bool(self._unwritten)
        self._unwritten.append(row)
        try:
            if self.evaluator is not None:
                self._tell(self.evaluator.after_update(self.wall_seconds()))
            self._write_rows()
            if self._keeper is not None:
                self._keeper.keep()
            if time.perf_counter() - self._last_save > self._interval:
                self.save()
        except CannotWrite as error:
            self._last_save = time.perf_counter()
            if not told:
                self.say(f"{error}; training goes on, and the next save tries again")
        if self._progress is not None:
            self._progress(row)

    def finish(self) -> None:
        """Evaluate the last policy and save; raises GantryError where that cannot be written."""
        if self.evaluator is not None and self.agent.steps > 0:
            self._tell(self.evaluator.at_end(self.wall_seconds()))
        self.save()

    def save(self) -> None:
        """Write all rows, then a checkpoint, unless the last one holds as much."""
        self._write_rows()
        if self.agent.steps > self.saved_steps:
            started = time.perf_counter()
            self.run.save_checkpoint(self.agent, self.wall_seconds())
            self.saved_steps, self._last_save = self.agent.steps, time.perf_counter()
            self._interval = max(CHECKPOINT_SECONDS, (self._last_save - started) / CHECKPOINT_SHARE)

    def _write_rows(self) -> None:
        while self._unwritten:
            self.run.append_metrics(self._unwritten[0])
            self._unwritten.pop(0)
        if self.evaluator is not None:
            self.evaluator.write()

    def _tell(self, row: dict[str, float] | None) -> None:
        if row is not None and self._evaluated is not None:
            self._evaluated(row)


def _learn(recorder: _Recorder) -> Agent:
    """Let the agent learn, writing metrics and checkpoints; save whatever ends it.

    Signals are looked at between updates: an update is whole or has not been, its row of metrics and its checkpoint
    belong together, and nothing interrupts a save.
    """
    agent, evaluator = recorder.agent, recorder.evaluator
    with deferring("this update, then saving") as request:

        def on_update(learner: Agent, metrics: Metrics) -> bool:
            recorder.add(metrics)
            return not (request.made or (evaluator is not None and evaluator.reached))

        try:
            if evaluator is None or not evaluator.reached:
                recorder.begin()
                agent.learn(recorder.written.total_steps, on_update)
            if request.made:
                raise KeyboardInterrupt
            recorder.finish()
        except FolderMoved:
            raise
        except BaseException as error:
            # The agent is as it was after its last whole update.
            try:
                recorder.save()
            except CannotWrite as unsaved:
                if not isinstance(error, KeyboardInterrupt | CannotWrite):
                    recorder.say(str(unsaved))
                    raise error from None
                raise GantryError(
                    f"{unsaved}; the last checkpoint holds {recorder.saved_steps:,} steps: make room, then resume"
                ) from error
            if isinstance(error, KeyboardInterrupt):
                raise TrainingStopped(recorder.saved_steps) from error
            raise
    return agent
