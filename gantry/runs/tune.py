"""Tuning: a search for an agent's settings in an environment, by Optuna's sampler and pruner.

A trial trains with sampled settings for the same seconds (or steps) as every other one. It is scored on tuning seeds at
the same shares of that budget, and given up where it is below the median of the earlier trials at that share. The first
trial has the settings that `gantry train` would use. In the end the best trials and those settings train again, from
the same seeds, and the best of them becomes a recipe file.
"""

import contextlib
import dataclasses
import json
import math
import os
import socket
import time
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantry.agents import config_class
from gantry.agents.protocol import Agent, AgentConfig, Metrics
from gantry.errors import CannotWrite, GantryError, described, shown
from gantry.files import config_from_json, config_to_json
from gantry.runs.evaluate import check_episodes, evaluate_agent
from gantry.runs.pace import steps_within
from gantry.runs.recipes import Recipe, default_settings, find_recipe
from gantry.runs.recipes.recipe_file import write_recipe
from gantry.runs.train import MOST_STEPS, close_agent, make_agent
from gantry.settings.fields import Tried
from gantry.types import Json, SearchSpace

if TYPE_CHECKING:
    import optuna

RUNGS = 4
"""Evaluations of a trial, evenly spaced over its budget."""
FINALISTS = 3
"""Best trials that train again at the end, beside the settings from before."""
DEFAULT = "default"
"""Attribute of the trial with the settings that there were before the search."""
MOST_TRIALS = 2000
"""Trial i trains in the environments of tuning seed 1 + i; seed 0 is that of evaluations, later ones of finalists."""


@dataclasses.dataclass(frozen=True)
class TuningPlan:
    """What is searched, and how trials are compared."""

    env_id: str
    """Gantry's, Gymnasium's or `module:ID`."""
    agent: str
    env_options: Json = dataclasses.field(default_factory=dict)
    trials: int = 30
    """Trials in all, those of earlier executions included."""
    seconds: float | None = None
    """Training time of a trial, evaluations not counted."""
    steps: int | None = None
    """Environment steps of a trial, in place of seconds."""
    episodes: int = 20
    """Episodes of each evaluation."""
    repeats: int = 2
    """Times that the finalists train again."""
    seed: int = 0
    """Seed of the sampler."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work; raises GantryError."""
        if (self.seconds is None) == (self.steps is None):
            raise GantryError("say how long a trial trains, either in --seconds or in --steps")
        if not 0 < (self.seconds or self.steps or 0) < MOST_STEPS:
            budget = shown(self.seconds or self.steps)
            raise GantryError(f"a trial must train for more than nothing and less than 2^63, not for {budget}")
        if not 1 <= self.trials <= MOST_TRIALS:
            raise GantryError(f"the number of trials must be from 1 to {MOST_TRIALS}, not {shown(self.trials)}")
        check_episodes(self.episodes)
        for name, value, end in (("repeats", self.repeats, MOST_TRIALS + 1), ("seed", self.seed, 2**31)):
            if not 0 <= value < end:
                raise GantryError(f"the search's {name} must be at least 0 and below {end}, not {shown(value)}")

    def case(self) -> Json:
        """Return what all trials of one search have in common."""
        return {
            "env_id": self.env_id, "env_options": self.env_options, "agent": self.agent.lower(),
            "seconds": self.seconds, "steps": self.steps, "episodes": self.episodes,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Finished:
    """A trial that has ended."""

    number: int
    score: float
    """Of the last evaluation; NaN where there was none."""
    best: float
    """The best score so far of a trial that was not given up."""
    outcome: str
    """"complete", "pruned", or why it failed."""
    remaining: int
    """Trials that are left."""


@dataclasses.dataclass(frozen=True)
class TuningResult:
    """What a search found."""

    recipe: Recipe
    number: int
    """The trial that the recipe is from."""
    score: float
    """Mean over its trainings, on tuning seeds."""
    default_score: float
    """The same for the settings that were there before."""
    scores: list[tuple[int, float, bool]]
    """Of each trial: number, last score, whether it was given up."""
    importance: dict[str, float]
    """Share of the scores' differences that each setting explains (PED-ANOVA); empty after few trials."""


Trained = tuple[float, int]
"""Score and steps of a training."""
Judge = Callable[[int, float], None]
"""Called with the rung, from 1, and the score; raises to give the training up."""


def tune(
    plan: TuningPlan, folder: Path, storage: str | None = None, told: Callable[[Finished], None] = lambda trial: None
) -> TuningResult:
    """Search until the plan's number of trials has ended, and write `recipe.json` into the folder.

    The search is kept in the folder's `journal.log` (Optuna's: lines of JSON, nothing that could execute), or at
    Optuna's storage URL, where several machines may work on it at once. Called again, it goes on.

    Args:
        plan: what is searched.
        folder: of the journal and the recipe; made where it is not there.
        storage: Optuna's storage URL, in place of the journal.
        told: called after each trial.

    Raises:
        GantryError: Optuna is missing, the agent has no search space, another search is in the folder, or every trial
            failed.
        KeyboardInterrupt: the search so far is kept, and its best recipe written.
    """
    base = _base_recipe(plan)
    plan = dataclasses.replace(plan, env_options=dict(base.env_options))
    space = _space_around(plan, base.config)
    with _quiet():
        study = _open_study(plan, folder, storage, space, base.config)
        while len(_ended(study)) < plan.trials:
            trial = study.ask()
            try:
                _run(plan, study, trial, space, base.config)
            except KeyboardInterrupt:
                _give_back(study, trial.number)
                raise
            ended = _ended(study)
            if best := _complete(study):
                write_recipe(folder / "recipe.json", _recipe(plan, best[0], base))
            told(_finished(study, trial.number, plan.trials - len(ended)))
        finalists = _complete(study)
        if not finalists:
            reason = _ended(study)[0].user_attrs.get("error", "it was given up")
            raise GantryError(f"no trial came to its end; the first one: {reason}")
        means = _train_again(plan, study, finalists, base)
        winner = max(finalists, key=lambda trial: means.get(trial.number, -math.inf))
        default = next((means[trial.number] for trial in finalists if _is_default(trial)), math.nan)
        recipe = _recipe(plan, winner, base)
        found = {"trial": winner.number, "score": means[winner.number], "default_score": default, "trials": plan.trials}
        write_recipe(folder / "recipe.json", recipe, {**plan.case(), **found})
        return TuningResult(
            recipe, winner.number, means[winner.number], default, _scores(study), _importance(study)
        )  # fmt: skip


def train_for(plan: TuningPlan, config: AgentConfig, seed: int, judge: Judge | None = None) -> Trained:
    """Train with these settings for the plan's budget, evaluate on tuning seeds, and return the score and the steps.

    Args:
        plan: the case and the budget.
        config: settings.
        seed: of the training, a block of tuning seeds; 0 is that of evaluations.
        judge: called after each evaluation.
    """

    def fresh() -> Agent:
        return make_agent(plan.agent, plan.env_id, config, seed, plan.env_options, "tuning")

    total_steps = plan.steps or 0
    if plan.seconds is not None:
        with _closing(fresh()) as agent:
            total_steps = steps_within(plan.seconds, agent)
    with _closing(fresh()) as agent:
        started, evaluating, rung = time.perf_counter(), 0.0, 1

        def score() -> float:
            found = evaluate_agent(agent, plan.env_id, plan.episodes, 0, plan.env_options, "tuning").score
            if not math.isfinite(found):
                raise GantryError("the score is not a number")
            return found

        def on_update(learner: Agent, metrics: Metrics) -> bool:
            nonlocal evaluating, rung
            before = time.perf_counter()
            share = (before - started - evaluating) / plan.seconds if plan.seconds else learner.steps / total_steps
            passed = min(int(share * RUNGS), RUNGS - 1)
            if judge is not None and passed >= rung:
                judge(passed, score())
                rung = passed + 1
                evaluating += time.perf_counter() - before
            return share < 1.0

        agent.learn(total_steps, on_update)
        last = score()
        if judge is not None:
            judge(RUNGS, last)
        return last, agent.steps


@contextlib.contextmanager
def _closing(agent: Agent) -> Iterator[Agent]:
    """Close the agent's environments in the end."""
    try:
        yield agent
    finally:
        close_agent(agent)


def _base_recipe(plan: TuningPlan) -> Recipe:
    """Return the settings that `gantry train` would use."""
    found = find_recipe(plan.env_id, plan.agent, plan.env_options)
    if found is not None:
        return dataclasses.replace(found, env_options={**found.env_options, **plan.env_options})
    return Recipe(plan.env_id, default_settings(plan.env_id, plan.agent, plan.env_options), 1, plan.env_options)


def search_space(kind: type) -> SearchSpace:
    """Return what is tried for the settings of a dataclass, by name; names of nested ones' settings have dots."""
    found: SearchSpace = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        notes = getattr(hint, "__metadata__", ())
        found.update((name, note.values) for note in notes if isinstance(note, Tried))
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            found |= {f"{name}.{inner}": values for inner, values in search_space(hint).items()}
    return found


def _space_around(plan: TuningPlan, config: AgentConfig) -> SearchSpace:
    """Return the agent's search space, widened to hold the settings that there were before."""
    space = search_space(config_class(plan.agent))
    known, widened = config_to_json(config), dict(space)
    for name, values in space.items():
        value = _at(known, name)
        if isinstance(values, list):
            widened[name] = values if value in values else [*values, value]
        else:
            low, high, logarithmic = values
            widened[name] = min(low, value), max(high, value), logarithmic
    return widened


def _at(settings: Json, name: str) -> Any:
    """Return a setting; those of nested settings are named with dots."""
    for part in name.split("."):
        settings = settings[part]
    return settings


def configured(base: AgentConfig, values: Json) -> AgentConfig:
    """Return the settings with some values changed.

    Raises:
        GantryError: they do not fit one another.
    """
    content = config_to_json(base)
    for name, value in values.items():
        *path, last = name.split(".")
        inner = content
        for part in path:
            inner = inner[part]
        inner[last] = value
    found: AgentConfig = config_from_json(type(base), content, "the trial")
    return found


def _suggested(trial: "optuna.Trial", space: SearchSpace) -> Json:
    """Return sampled values of the settings."""
    values: Json = {}
    for name, choices in space.items():
        if isinstance(choices, list):
            values[name] = json.loads(str(trial.suggest_categorical(name, [json.dumps(each) for each in choices])))
        elif isinstance(choices[0], int) and isinstance(choices[1], int):
            values[name] = trial.suggest_int(name, choices[0], choices[1], log=choices[2])
        else:
            values[name] = trial.suggest_float(name, choices[0], choices[1], log=choices[2])
    return values


def _run(plan: TuningPlan, study: "optuna.Study", trial: "optuna.Trial", space: SearchSpace, base: AgentConfig) -> None:
    """Train and score one trial, and tell the study how it ended."""
    import optuna

    trial.set_user_attr("process", _process())

    def judge(rung: int, score: float) -> None:
        trial.report(score, rung)
        if rung < RUNGS and not _is_default(trial) and trial.should_prune():
            raise optuna.TrialPruned

    try:
        config = configured(base, _suggested(trial, space))
        score, steps = train_for(plan, config, 1 + trial.number % MOST_TRIALS, judge)
        trial.set_user_attr("config", config_to_json(config))
        trial.set_user_attr("steps", steps)
        study.tell(trial, score)
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except CannotWrite:
        raise
    except GantryError as error:  # settings that do not fit one another, or that made training diverge: bad ones
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)


def _train_again(
    plan: TuningPlan, study: "optuna.Study", finalists: "Sequence[optuna.trial.FrozenTrial]", base: Recipe
) -> dict[int, float]:
    """Train the best settings, and those from before, again from the same seeds; return mean scores by trial."""
    chosen = [*finalists[:FINALISTS], *filter(_is_default, finalists[FINALISTS:])]
    means = {}
    for trial in chosen:
        name = f"trained again: {trial.number}"
        scores: list[float] = list(study.user_attrs.get(name, []))
        while len(scores) < plan.repeats:
            score, _ = train_for(plan, _recipe(plan, trial, base).config, MOST_TRIALS + 1 + len(scores))
            scores.append(score)
            study.set_user_attr(name, scores)
        assert trial.value is not None
        means[trial.number] = sum(scores := [trial.value, *scores]) / len(scores)
    return means


def _recipe(plan: TuningPlan, trial: "optuna.trial.FrozenTrial", base: Recipe) -> Recipe:
    config = config_from_json(type(base.config), trial.user_attrs.get("config", {}), f"trial {trial.number}")
    return Recipe(plan.env_id, config, trial.user_attrs.get("steps", 0), base.env_options)


# The study


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from logging each trial, and from warning of what it calls experimental."""
    try:
        import optuna
    except ImportError as error:
        raise GantryError("gantry tune needs Optuna: pip install 'gantry-rl[tune]'") from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _open_study(
    plan: TuningPlan, folder: Path, storage: str | None, space: SearchSpace, base: AgentConfig
) -> "optuna.Study":
    """Begin a search, or go on with one.

    Raises:
        GantryError: the storage cannot be opened, or holds a search of another case.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    class Journal(JournalFileBackend):
        def append_logs(self, logs: list[Json]) -> None:
            try:
                super().append_logs(logs)
            except OSError as error:
                place, reason = shown(folder / "journal.log"), error.strerror
                raise CannotWrite(f"cannot write {place}: {reason}; make room, then give the command again") from error

    case = plan.case()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept: Any = storage
        if storage is None:
            _mend(folder / "journal.log")
            kept = optuna.storages.JournalStorage(Journal(str(folder / "journal.log")))
        study = optuna.create_study(
            storage=kept, study_name=f"{plan.agent.lower()} in {plan.env_id}", direction="maximize",
            load_if_exists=True, pruner=optuna.pruners.MedianPruner(),
        )  # fmt: skip
        begun = study.user_attrs.get("case")
        found = study.get_trials(deepcopy=False)
    except GantryError:
        raise
    except Exception as error:  # whatever the storage's own libraries raise
        raise GantryError(f"cannot open the search's storage {storage or folder}: {described(error)}") from error
    if begun is None:
        study.set_user_attr("case", case)
    elif not isinstance(begun, dict):
        raise GantryError(f"{storage or folder} is damaged (it names no search); choose another --out")
    elif differing := [name for name in case if begun.get(name) != case[name]]:
        name = differing[0]
        raise GantryError(
            f"{storage or folder} holds a search with {name} {begun.get(name)}, not {case[name]}; choose another --out"
        )
    for trial in found:
        if trial.state == optuna.trial.TrialState.RUNNING and _is_dead(str(trial.user_attrs.get("process", ""))):
            _give_back(study, trial.number)
    if not found:
        known = config_to_json(base)
        values = {name: _at(known, name) for name in space}
        words = {name: json.dumps(value) if isinstance(space[name], list) else value for name, value in values.items()}
        study.enqueue_trial(words, user_attrs={DEFAULT: True})
    study.sampler = optuna.samplers.TPESampler(seed=(plan.seed << 16) + len(study.get_trials(deepcopy=False)))
    return study


def _mend(journal: Path) -> None:
    """Drop a last line that a kill left unfinished, after which the journal could not go on.

    Raises:
        GantryError: another line is damaged.
    """
    from optuna.storages.journal import JournalFileSymlinkLock

    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        content = journal.read_bytes() if journal.exists() else b""
        *lines, torn = content.split(b"\n")
        for number, line in enumerate(lines, start=1):
            try:
                whole = isinstance(json.loads(line), dict)
            except (ValueError, RecursionError):
                whole = False
            if not whole:
                raise GantryError(
                    f"{shown(journal)} is damaged (line {number}); remove that line, or choose another --out"
                )
        if torn:
            os.truncate(journal, len(content) - len(torn))
    finally:
        lock.release()


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _is_dead(process: str) -> bool:
    """Return whether the process that ran a trial was one of this machine and has ended."""
    host, _, number = process.rpartition(":")
    if host != socket.gethostname() or os.name != "posix":
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return False


def _give_back(study: "optuna.Study", number: int) -> None:
    """End a trial that was interrupted, and let another one try its settings."""
    import optuna

    trial = study.get_trials(deepcopy=False)[number]
    study.tell(number, state=optuna.trial.TrialState.FAIL)
    settings = trial.system_attrs.get("fixed_params") or trial.params
    study.enqueue_trial(settings, user_attrs={DEFAULT: True} if _is_default(trial) else None)


def _is_default(trial: "optuna.Trial | optuna.trial.FrozenTrial") -> bool:
    """Return whether a trial has the settings that there were before the search."""
    return DEFAULT in trial.user_attrs


def _ended(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """Return the trials that came to an end, of their own or by the pruner."""
    import optuna

    states = [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED]
    return study.get_trials(deepcopy=False, states=states)


def _complete(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """Return the trials that trained for the whole budget, the best first."""
    found = [(trial.value, trial) for trial in _ended(study) if trial.state.name == "COMPLETE"]
    return [trial for value, trial in sorted(found, key=lambda pair: -(pair[0] or 0.0))]


def _scores(study: "optuna.Study") -> list[tuple[int, float, bool]]:
    """Return number, last score and whether it was given up, of each trial that has ended."""
    return [(trial.number, _last(trial), trial.state.name == "PRUNED") for trial in _ended(study)]


def _last(trial: "optuna.trial.FrozenTrial") -> float:
    values = trial.intermediate_values
    return values[max(values)] if values else math.nan


def _finished(study: "optuna.Study", number: int, remaining: int) -> Finished:
    trial = study.get_trials(deepcopy=False)[number]
    complete = _complete(study)
    best = math.nan if not complete else complete[0].value
    outcome = trial.user_attrs.get("error", trial.state.name.lower())
    return Finished(number, _last(trial), math.nan if best is None else best, outcome, max(0, remaining))


def _importance(study: "optuna.Study") -> dict[str, float]:
    """Return how much of the scores' differences each setting explains, most first; empty where that is not known."""
    import optuna

    with warnings.catch_warnings(action="error", category=UserWarning):
        try:
            return optuna.importance.get_param_importances(study)
        except (ValueError, RuntimeError, UserWarning):  # too few trials, or all alike
            return {}
