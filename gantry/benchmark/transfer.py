"""`gantry bench transfer`: identification from noisy logs, and policies on the stand-in for reality."""

import statistics

import numpy as np

from gantry.agents.protocol import Agent
from gantry.benchmark.cases import FIRST_SEED
from gantry.benchmark.rows import Report, Row
from gantry.envs.domain_randomization import Range
from gantry.envs.factory import make_vec
from gantry.runs.evaluate import evaluate_agent
from gantry.runs.recipes import recipe_for
from gantry.runs.train import close_agent, make_agent
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
    "cart_mass": "0.5..2.5",
    "pole_mass": "0.05..0.4",
    "pole_length": "0.6..1.6",
    "motor_delay": "0..2",
    "sensor_noise": "0..0.02",
}
"""Randomized physics of one who does not know the robot."""
AROUND: Json = {"motor_delay": "0..1", "sensor_noise": "0..0.02"}
"""What is randomized beside what was identified."""
WIDEN = 4.0
"""Factor on the identified intervals, for what the model cannot express."""
AGENT = "ddpg"
"""It needs the fewest steps, of which the stand-in's are slow."""
TEST_EPISODES = 50


def measure(report: Report, seeds: int = 5) -> None:
    """Measure identification on simulated logs, then four ways to a policy on the stand-in.

    Args:
        report: called with each row as soon as it is known.
        seeds: trainings of each kind; with fewer than 5, as many twentieths of the repetitions of identification.
    """
    repetitions = REPETITIONS if seeds >= 5 else seeds * REPETITIONS // 20
    found = [identify(simulated_log(seed), RANGES, seed) for seed in range(repetitions)]
    _report_identification(report, found)
    scores: dict[str, list[float]] = {"nominal": [], "randomized": [], "identified and randomized": [], "itself": []}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        nominal = _trained(SWING_UP, seed)
        scores["nominal"].append(_score(nominal))
        log = control(StandInRobot(seed), nominal, SECONDS, explore=0.3, seed=seed).log
        known = identify(log, {**RANGES, "motor_delay": Range(0, 2)}, seed)
        scores["randomized"].append(_score(_trained(SWING_UP, seed, WIDE)))
        scores["identified and randomized"].append(_score(_trained(SWING_UP, seed, {**known.physics(WIDEN), **AROUND})))
        scores["itself"].append(_score(_trained(STAND_IN, seed)))
    itself = statistics.median(scores["itself"])
    for name, values in scores.items():
        median = statistics.median(values)
        target = 0.95 * itself if name == "identified and randomized" else None
        note = ", ".join(f"{value:.0f}" for value in values)
        report(Row(f"trained {name}: score on the stand-in, median of {seeds} seeds", median, "", target, note=note))


def _report_identification(report: Report, found: list[Identification]) -> None:
    errors = [max(abs(each.value / TRUTH[each.name] - 1.0) for each in one.estimates) for one in found]
    of = f"{len(found)} logs of {SECONDS:.0f} s"
    report(Row(f"identification: largest error of a quantity, worst of {of}", max(errors), "share", 0.05, "lower"))
    for index, name in enumerate(TRUTH):
        inside = [one.estimates[index].low <= TRUTH[name] <= one.estimates[index].high for one in found]
        share = statistics.fmean(inside)
        row = f"identification: {name}, distance of the coverage of 90 % intervals from 90 %"
        report(Row(row, abs(share - 0.9), "share", 0.05, "lower", f"{share:.0%} of {of}"))


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


def _trained(env_id: str, seed: int, physics: Json | None = None) -> Agent:
    recipe = recipe_for(SWING_UP, AGENT)
    agent = make_agent(AGENT, env_id, recipe.config, seed, {"physics": physics} if physics else {})
    agent.learn(recipe.total_steps)
    close_agent(agent)
    return agent


def _score(agent: Agent) -> float:
    return evaluate_agent(agent, STAND_IN, TEST_EPISODES, 0, {}, "test").score
