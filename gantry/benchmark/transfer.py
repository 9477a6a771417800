"""`gantry bench transfer`: identification from noisy logs, and policies on the stand-in for reality."""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gantry.agents.ddpg import DDPGConfig
from gantry.agents.protocol import Agent
from gantry.benchmark.cases import FIRST_SEED, trained
from gantry.benchmark.in_processes import in_processes
from gantry.benchmark.rows import Report, Row, chosen_parts
from gantry.envs.domain_randomization import Range
from gantry.envs.factory import make_vec
from gantry.runs.evaluate import evaluate_agent
from gantry.runs.recipes import recipe_for, tuned_config
from gantry.transfer.identify import Identification, identify
from gantry.transfer.log import Log
from gantry.transfer.robot import control
from gantry.transfer.stand_in import ENV_ID as STAND_IN
from gantry.transfer.stand_in import NOISE, StandInRobot
from gantry.types import Json

SWING_UP = "gantry/CartPoleSwingUp-v0"
TRUTH = {"cart_mass": 1.5, "pole_mass": 0.2, "pole_length": 1.2}
"""The hidden physics of the simulated logs."""
RANGES = {"cart_mass": Range(0.5, 3.0), "pole_mass": Range(0.02, 0.6), "pole_length": Range(0.5, 2.0)}
"""Where identification looks for them."""
REPETITIONS = 100
SECONDS = 60.0
"""Duration of a log."""
EPISODES = 6
WIDE: Json = {
    "cart_mass": "0.5..4",
    "pole_mass": "0.05..0.5",
    "pole_length": "0.5..2",
    "motor_delay": "0..3",
    "sensor_noise": "0..0.02",
}
"""Randomized physics of one who does not know the robot."""
LOOKED_IN = {
    "cart_mass": Range(0.5, 4.0),
    "pole_mass": Range(0.02, 0.8),
    "pole_length": Range(0.5, 2.0),
    "motor_delay": Range(0, 3),
    "rail_friction": Range(0.0, 4.0),
}
"""Where identification looks for the stand-in's."""
WIDEN = 10.0
"""Factor on the identified intervals, for what the model cannot express."""
AGENT = "ddpg"
"""It needs the fewest steps, of which the stand-in's are slow."""
PARTS = ("identification", "training")
WAYS = ("nominal", "randomized", "identified and randomized", "stand-in itself")
"""How a policy for the stand-in is trained; the last is the yardstick."""
TEST_EPISODES = 20


def measure(
    report: Report, seeds: int = 5, processes: int = 1, only: Sequence[str] = (), out: Path | None = None
) -> None:
    """Measure identification on simulated logs, then four ways to a policy for the stand-in.

    Args:
        report: called with each row as soon as it is known.
        seeds: trainings of each kind; with fewer than 5, as many twentieths of the repetitions of identification.
        processes: identifications and trainings at a time.
        only: parts, of `PARTS`; empty for both.
        out: keep the runs and logs in folders below it; those that are there already go on where they stopped.

    Raises:
        GantryError: an unknown part.
    """
    parts = chosen_parts("transfer", PARTS, only)
    if "identification" in parts:
        _measure_identification(report, REPETITIONS if seeds >= 5 else seeds * REPETITIONS // 20, processes)
    if "training" in parts:
        _measure_training(report, seeds, processes, out)


def _measure_identification(report: Report, repetitions: int, processes: int) -> None:
    """Measure errors of identification, and how often its intervals cover the truth, on simulated logs."""
    found = list(in_processes(_identified, range(repetitions), processes))
    errors = [max(abs(each.value / TRUTH[each.name] - 1.0) for each in one.estimates) for one in found]
    of = f"{len(found)} logs of {SECONDS:.0f} s"
    report(Row(f"identification: largest error of a quantity, worst of {of}", max(errors), "share", 0.05, "lower"))
    for index, name in enumerate(TRUTH):
        inside = [one.estimates[index].low <= TRUTH[name] <= one.estimates[index].high for one in found]
        share = statistics.fmean(inside)
        row = f"identification: {name}, distance of the coverage of 90 % intervals from 90 %"
        report(Row(row, abs(share - 0.9), "share", 0.05, "lower", f"{share:.0%} of {of}"))


def _measure_training(report: Report, seeds: int, processes: int, out: Path | None) -> None:
    """Measure the scores on the stand-in of policies that were trained in four ways."""
    numbers = range(FIRST_SEED, FIRST_SEED + seeds)
    # The slowest first. What is identified comes from a log of the nominal policy, so that these share a process.
    folders = [(seed, out and out / f"seed{seed}") for seed in numbers]
    cases = [_Case(seed, itself, folder) for itself in (True, False) for seed, folder in folders]
    scores: dict[str, list[float]] = {name: [] for name in WAYS}
    for case, result in zip(cases, in_processes(_trainings, cases, processes), strict=True):
        for name, score in result.scores.items():
            what = f"trained {name}, seed {case.seed}: score on the stand-in"
            report(Row(what, score, "", note=result.notes.get(name, "")))
            scores[name].append(score)
    itself = statistics.median(scores[WAYS[-1]])
    for name, values in scores.items():
        median = statistics.median(values)
        target = 0.95 * itself if name == "identified and randomized" else None
        note = f"{median / itself:.3f} of the stand-in's own; {', '.join(f'{value:.0f}' for value in values)}"
        report(Row(f"trained {name}: score on the stand-in, median of {seeds} seeds", median, "", target, note=note))


@dataclasses.dataclass(frozen=True)
class _Case:
    """The trainings of a seed that one process does."""

    seed: int
    itself: bool
    """On the stand-in itself, or in the three ways that do not need it."""
    folder: Path | None
    """Where runs and log are kept."""


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What trainings brought, by the way of training."""

    scores: dict[str, float]
    notes: dict[str, str]


def _trainings(case: _Case) -> _Trained:
    """Train from a seed, and score on the stand-in."""
    if case.itself:
        return _Trained({WAYS[3]: _score(_trained(case, WAYS[3]))}, {})
    nominal = _trained(case, WAYS[0])
    log = control(StandInRobot(case.seed), nominal, SECONDS, explore=0.3, seed=case.seed).log
    if case.folder is not None:
        log.write(case.folder / "log.csv")
    physics = around(identify(log, LOOKED_IN, case.seed))
    agents = (nominal, _trained(case, WAYS[1], WIDE), _trained(case, WAYS[2], physics))
    notes = {WAYS[2]: ", ".join(f"{name}={value}" for name, value in physics.items())}
    return _Trained(dict(zip(WAYS, map(_score, agents), strict=False)), notes)


def around(found: Identification) -> Json:
    """Return physics around what was identified: intervals `WIDEN` times as wide, and noise."""
    return {**found.physics(WIDEN), "sensor_noise": WIDE["sensor_noise"]}


def _identified(seed: int) -> Identification:
    return identify(simulated_log(seed), RANGES, seed)


def simulated_log(seed: int, physics: Json | None = None) -> Log:
    """Return a log of a simulated cart-pole that is pushed about in the middle of its rail, with sensor noise."""
    steps = round(SECONDS * 50.0 / EPISODES)
    random = np.random.default_rng(seed)
    env = make_vec(SWING_UP, EPISODES, physics=physics or TRUTH, max_episode_steps=steps + 1)
    seen, _ = env.reset(seed=seed)
    push, observations, actions = np.zeros((EPISODES, 1)), [], []
    for _ in range(steps):
        push = 0.9 * push + 0.3 * random.normal(size=push.shape)
        action = np.clip(push - 0.5 * seen[:, :1] - 0.3 * seen[:, 3:4], -1.0, 1.0).astype(np.float32)
        observations.append(seen + NOISE * random.normal(size=seen.shape))
        actions.append(action)
        seen = env.step(action)[0]
    env.close()
    observed, acted = (np.stack(part, 1).reshape(EPISODES * steps, -1) for part in (observations, actions))
    return Log(SWING_UP, 50.0, np.repeat(np.arange(EPISODES), steps), observed, acted)


def _trained(case: _Case, way: str, physics: Json | None = None) -> Agent:
    """Return an agent that was trained in a way, all with the same settings: twice the recipe's gradient steps."""
    steps = recipe_for(SWING_UP, AGENT).total_steps
    config = dataclasses.replace(tuned_config(SWING_UP, DDPGConfig), gradient_steps=2, batch_size=256)
    env_id, options = (STAND_IN if way == WAYS[3] else SWING_UP), ({"physics": physics} if physics else {})
    folder = case.folder and case.folder / way.replace(" ", "-")
    return trained(env_id, AGENT, config, steps, case.seed, options, folder)


def _score(agent: Agent) -> float:
    return evaluate_agent(agent, STAND_IN, TEST_EPISODES, 0, {}, "test").score
