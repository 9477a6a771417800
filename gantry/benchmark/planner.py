"""What the planner reaches with the settings shipped, how long it thinks, and what a perfect model is worth."""

import dataclasses
import statistics

import mujoco
import numpy as np
from mujoco.batch import Batch

from gantry.agents.planner import Planner, PlannerConfig
from gantry.benchmark.cases import FIRST_SEED, train_case
from gantry.benchmark.rows import Report, Row, median_rate, median_ratio, rounds
from gantry.benchmark.time_to_score import GOAL, SWING_UP
from gantry.envs.simulator import make_simulator
from gantry.envs.tasks.vacuum.rooms import RoomProcess, VacuumRooms, room_level_process, state_number
from gantry.runs.environments import open_env
from gantry.runs.evaluate import evaluate
from gantry.runs.recipes import tuned_config
from gantry.runs.seeds import environment_seed

REACH, ROOMS, PENDULUM = "gantry/Reach-v0", "gantry/VacuumRooms-v0", "Pendulum-v1"
EPISODES, REACH_EPISODES, ROOMS_EPISODES = 10, 40, 50
"""Test episodes a trained planner."""
OTHER_SEEDS = 3
"""Training seeds of everything but swing-up, at most."""
FUTURES, HORIZON, REPEAT = 256, 25, 2
"""Size of the rollouts whose rate is measured: plans, decisions, and control steps a decision."""
ROUNDS = 9


@dataclasses.dataclass
class Learned:
    """A planner that has learned, and what that took."""

    agent: Planner
    seconds: float
    """Wall time of learning, planning included."""
    planning_ms: float
    """Median over updates of the milliseconds a decision."""
    real_time_factor: float


def measure(report: Report, seeds: int = 5) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds of swing-up.
    """
    _swing_up(report, seeds)
    _perfect_model(report)
    others = min(seeds, OTHER_SEEDS)
    _outcome(report, REACH, others, REACH_EPISODES, "success", 0.9)
    _outcome(report, PENDULUM, others, EPISODES, "return_mean", -200.0)
    shares = [_optimal_share(_learn(ROOMS, FIRST_SEED + seed).agent) for seed in range(others)]
    report(Row("planner on VacuumRooms-v0: episodes of the best possible return, median", statistics.median(shares),
               "share", 1.0, note=_numbers(shares)))  # fmt: skip


def _learn(environment: str, seed: int) -> Learned:
    """Learn with the shipped settings."""
    rows: list[dict[str, float]] = []
    agent, _, seconds = train_case(environment, Planner.name, seed, callback=lambda _, metrics: rows.append(metrics))
    planned = [row for row in rows if np.isfinite(row["planning_ms"])]
    return Learned(
        agent,
        seconds,
        statistics.median(row["planning_ms"] for row in planned),
        statistics.median(row["real_time_factor"] for row in planned),
    )


def _swing_up(report: Report, seeds: int) -> None:
    """One minute of the robot's time, learning included."""
    runs = [_learn(SWING_UP, FIRST_SEED + seed) for seed in range(seeds)]
    scores = [_score(run.agent, SWING_UP) for run in runs]
    decisions = runs[0].agent.steps // runs[0].agent.config.action_repeat
    report(Row(f"planner on swing-up: seeds of {seeds} that score {GOAL:.0f} after {decisions:,} decisions",
               float(sum(score >= GOAL for score in scores)), "seeds", 0.8 * seeds, note=_numbers(scores)))  # fmt: skip
    report(Row("planner on swing-up: learning time, slowest seed", max(run.seconds for run in runs), "s", 60.0, "lower",
               _numbers([run.seconds for run in runs])))  # fmt: skip
    factor = statistics.median(run.real_time_factor for run in runs)
    report(Row("planner on swing-up: time a decision, median", statistics.median(run.planning_ms for run in runs), "ms",
               20.0, "lower", f"{factor:.1f} times as fast as real time"))  # fmt: skip


def _score(agent: Planner, environment: str) -> float:
    return evaluate(agent.act, environment, EPISODES, purpose="test", begin=agent.begin).score


def _perfect_model(report: Report) -> None:
    """The simulator itself as the model: what it scores at once, and how fast futures are tried out in it."""
    config = dataclasses.replace(tuned_config(SWING_UP, PlannerConfig), dynamics="simulator")
    agent = Planner(open_env(SWING_UP, 1), config, FIRST_SEED)
    result = evaluate(agent.act, SWING_UP, 3, purpose="test", begin=agent.begin)
    report(Row("planner with true dynamics on swing-up: score from the first episode", result.score, "score", 850.0))
    env = make_simulator(SWING_UP, 1)
    env.reset(seed=0)
    model, steps = env.planning_model(), HORIZON * REPEAT * env.task.decimation
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 1.0, (FUTURES, HORIZON, 1)).astype(np.float32)
    controls = np.repeat(actions.astype(np.float64), REPEAT * env.task.decimation, axis=1)
    rows = np.zeros(FUTURES, np.int64)
    bare, start = Batch(env.model, FUTURES), np.repeat(env.batch.state, FUTURES, axis=0)

    def planned() -> None:
        model.rollout(rows, actions, REPEAT)

    def plain() -> None:
        bare.state[:] = start
        bare.rollout(steps, controls, mujoco.mjtState.mjSTATE_CTRL, record=["qpos", "qvel"])

    times = rounds([plain, planned], ROUNDS)
    rate = median_rate(times, 1, FUTURES * steps)
    report(Row("planning rollouts with rewards, over bare Batch.rollout", median_ratio(times, 0, 1), "times", 0.8,
               note=f"{rate / 1e6:.2f} M simulation steps/s"))  # fmt: skip


def _outcome(report: Report, environment: str, seeds: int, episodes: int, figure: str, goal: float) -> None:
    """Learn with the shipped settings, and report a figure of the test episodes."""
    figures, steps = [], 0
    for seed in range(seeds):
        agent = _learn(environment, FIRST_SEED + seed).agent
        result = evaluate(agent.act, environment, episodes, purpose="test", begin=agent.begin)
        figures.append(float(getattr(result, figure) or 0.0))
        steps = agent.steps
    name = (
        f"planner on {environment.removeprefix('gantry/')}: {figure.replace('_mean', '')} after {steps:,} steps, median"
    )
    report(Row(name, statistics.median(figures), "", goal, note=_numbers(figures)))


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}" for value in values)


def _optimal_share(agent: Planner) -> float:
    """The share of test episodes whose return is the greatest that the rooms allow."""
    env = make_simulator(ROOMS, ROOMS_EPISODES)
    assert isinstance(env.task, VacuumRooms)
    observations, _ = env.reset(seed=environment_seed("test", 0, ROOMS_EPISODES))
    features = env.planning_model().features(observations)
    assert features is not None
    rooms = env.task.rooms
    levels = features[:, rooms:].astype(np.int64)
    best = best_returns(room_level_process(env.task.plan.room_neighbours))[
        state_number(features[:, :rooms].argmax(1), levels)
    ]
    agent.begin(env)
    returns, running = np.zeros(ROOMS_EPISODES), np.ones(ROOMS_EPISODES, bool)
    while running.any():
        observations, rewards, terminations, truncations, _ = env.step(agent.act(observations))
        returns += rewards * running
        running &= ~(terminations | truncations)
    return float((returns > best - 1e-6).mean())


def best_returns(process: RoomProcess) -> np.ndarray:
    """Return the greatest sums of rewards (S,) until all rooms are clean, by value iteration without discount."""
    values = np.zeros(len(process.terminal))
    while True:
        improved = np.where(process.terminal, 0.0, (process.reward + values[process.following]).max(axis=1))
        if np.array_equal(improved, values):
            return values
        values = improved
