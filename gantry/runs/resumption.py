"""What a run may change when it is resumed, and what is worth knowing before it goes on."""

import dataclasses
import json
from collections.abc import Iterator

from gantry.agents.protocol import AgentConfig
from gantry.errors import GantryError, shown
from gantry.files import config_to_json
from gantry.runs.environments import same_option
from gantry.runs.evaluation_callback import EvaluationPlan
from gantry.runs.folder import RunConfig, current_versions
from gantry.types import Json, Options

FIXED_SETTINGS = frozenset(
    {
        *("action_repeat", "action_scaling", "activation", "angle_columns", "baseline", "bootstrap", "buffer_size"),
        *("covariance", "dueling", "dynamics", "ensemble_size", "hidden_sizes", "hindsight_goals", "initial_log_std"),
        *("initial_random_steps", "initial_temperature", "initial_value", "n_step", "normalize_observation"),
        *("normalize_return", "num_envs", "optimizer", "prioritized", "relative_goals", "replay_batches"),
        *("replay_capacity", "reward", "rule", "shared_body", "squash_actions", "stagger_first_episodes"),
        *("terminal_value", "twin_critics"),
    }
)
"""Settings that a run's state is built on, or that only matter at its beginning: they cannot change later."""


def changed_run(
    written: RunConfig,
    total_steps: int | None,
    config: AgentConfig | None,
    env_options: Options | None,
    evaluation: EvaluationPlan | None,
    keep_schedules: bool,
) -> tuple[RunConfig, list[str]]:
    """Return a run's description with what is asked of its continuation, and what the user should know, in lines.

    Arguments are those of `gantry.runs.train.resume`.

    Raises:
        GantryError: something is asked that a run which has begun cannot change; the message names it.
    """
    changes: Json = {}
    remarks = list(_other_versions(written))
    for name, value in _plain(env_options or {}).items():
        if name not in written.env_options or not same_option(name, value, written.env_options[name]):
            raise GantryError(
                f"a run that has begun keeps its environment: {shown(name)}={shown(value)} cannot be given with "
                "--resume; train a new run"
            )
    if config is not None:
        settings = _plain(config_to_json(config))
        differences = list(_differences(written.config, settings))
        for name, _, _ in differences:
            if name.rpartition(".")[2] in FIXED_SETTINGS:
                raise GantryError(f"a run that has begun cannot change {name}: leave its flag away, or train a new run")
        remarks += [f"{name} was {old}, and is {new} from here on" for name, old, new in differences]
        changes["config"] = settings
    if evaluation is not None:
        changes["evaluation"] = evaluation.settled(total_steps or written.total_steps).to_json()
    if total_steps is not None and total_steps != written.total_steps:
        changes |= {"total_steps": total_steps, "schedule_steps": None}
        schedules = ", ".join(_schedules(changes.get("config", written.config)))
        if keep_schedules:
            changes["schedule_steps"] = written.schedule_steps or written.total_steps
        elif schedules:
            remarks.append(
                f"schedules ({schedules}) are stretched over {total_steps:,} steps, so that these settings jump now; "
                "--keep-schedules lets them end where they did"
            )
    return dataclasses.replace(written, **changes), remarks


def _other_versions(written: RunConfig) -> Iterator[str]:
    """Yield a line where packages have other versions than when the run began."""
    now = current_versions()
    other = [f"{name} {old} (now {now[name]})" for name, old in written.versions.items() if now.get(name, old) != old]
    if other:
        yield f"the run began with {', '.join(map(shown, other))}: its numbers may differ from those of an unbroken run"


def _schedules(settings: Json, prefix: str = "") -> Iterator[str]:
    """Yield the names of the settings that change with the share of the budget that has passed."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _schedules(value, f"{prefix}{name}.")
        elif name.endswith("_schedule") and value not in ("constant", "visits"):
            yield prefix + name.removesuffix("_schedule")
    if settings.get("prioritized") is True:
        yield prefix + "importance_exponent"


def _differences(before: Json, now: Json, prefix: str = "") -> Iterator[tuple[str, object, object]]:
    """Yield (name, value before, value now) of the settings that differ, nested ones included."""
    for name, value in now.items():
        old = before.get(name)
        if isinstance(value, dict) and isinstance(old, dict):
            yield from _differences(old, value, f"{prefix}{name}.")
        elif name in before and old != value:
            yield prefix + name, old, value


def _plain(values: Options) -> Json:
    """Return values as they come back from JSON: lists for tuples."""
    result: Json = json.loads(json.dumps(dict(values), default=str))
    return result
