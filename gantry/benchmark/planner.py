"""Measure the planner with its recipes: scores, planning time, and scores with the simulator as a perfect model."""

import dataclasses
import statistics

import mujoco
import numpy as np
from mujoco.batch import Batch

from gantry.agents.pets import PETS, PlannerConfig
from gantry.benchmark.cases import FIRST_SEED, train_case
from gantry.benchmark.rows import Report, Row, median_rate, median_ratio, rounds
from gantry.benchmark.time_to_score import GOAL, SWING_UP
from gantry.envs.simulator import make_simulator
from gantry.envs.tasks.vacuum.rooms import RoomMDP, VacuumRooms, room_mdp, state_number
from gantry.runs.environments import open_env
from gantry.runs.evaluate import evaluate
from gantry.runs.recipes import tuned_config
from gantry.runs.seeds import environment_seed

REACH, ROOMS, PENDULUM = "gantry/Reach-v0", "gantry/VacuumRooms-v0", "Pendulum-v1"
EPISODES, REACH_EPISODES, ROOMS_EPISODES = 10, 40, 50
"""Test episodes per trained planner."""
OTHER_SEEDS = 3
"""Maximum number of training seeds, except for swing-up."""
PLANS, HORIZON, REPEAT = 256, 25, 2
"""Size of the rollouts whose rate is measured: action sequences, planning steps, control steps per planning step."""
ROUNDS = 9


@dataclasses.dataclass
class Learned:
    """A trained planner and the time that training took."""

    agent: PETS
    seconds: float
    """Wall time of training, planning included."""
    planning_ms: float
    """Planning time per planning step, median over updates."""
    real_time_factor: float
    """Time between planning steps over planning time, median over updates."""


def measure(report: Report, seeds: int = 5) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds of swing-up.
    """
    _swing_up(report, seeds)
    _perfect_model(report)
    others = min(seeds, OTHER_SEEDS)
    _report_metric(report, REACH, others, REACH_EPISODES, "success", 0.9)
    _report_metric(report, PENDULUM, others, EPISODES, "return_mean", -200.0)
    shares = [_optimal_share(_learn(ROOMS, FIRST_SEED + seed).agent) for seed in range(others)]
    report(Row("planner on VacuumRooms-v0: episodes with the optimal return, median", statistics.median(shares),
               "share", 1.0, note=_numbers(shares)))  # fmt: skip


def _learn(env_id: str, seed: int) -> Learned:
    """Train with the recipe."""
    updates: list[dict[str, float]] = []
    agent, _, seconds = train_case(env_id, PETS.name, seed, callback=lambda _, metrics: updates.append(metrics))
    assert isinstance(agent, PETS)
    planned = [update for update in updates if np.isfinite(update["planning_ms"])]
    return Learned(
        agent,
        seconds,
        statistics.median(update["planning_ms"] for update in planned),
        statistics.median(update["real_time_factor"] for update in planned),
    )


def _swing_up(report: Report, seeds: int) -> None:
    """Report scores and times after one minute of the robot's time."""
    runs = [_learn(SWING_UP, FIRST_SEED + seed) for seed in range(seeds)]
    scores = [_score(run.agent, SWING_UP) for run in runs]
    planning_steps = runs[0].agent.steps // runs[0].agent.config.action_repeat
    report(Row(f"planner on swing-up: seeds of {seeds} that score {GOAL:.0f} after {planning_steps:,} planning steps",
               float(sum(score >= GOAL for score in scores)), "seeds", 0.8 * seeds, note=_numbers(scores)))  # fmt: skip
    report(Row("planner on swing-up: learning time, slowest seed", max(run.seconds for run in runs), "s", 60.0, "lower",
               _numbers([run.seconds for run in runs])))  # fmt: skip
    factor = statistics.median(run.real_time_factor for run in runs)
    milliseconds = statistics.median(run.planning_ms for run in runs)
    report(Row("planner on swing-up: planning time per planning step, median", milliseconds, "ms", 20.0, "lower",
               f"{factor:.1f} times as fast as real time"))  # fmt: skip


def _score(agent: PETS, env_id: str) -> float:
    return evaluate(agent.act, env_id, EPISODES, purpose="test", begin=agent.begin).score


def _perfect_model(report: Report) -> None:
    """Report the score with the simulator as the model, and the rate of its rollouts."""
    config = dataclasses.replace(tuned_config(SWING_UP, PlannerConfig), dynamics="simulator")
    agent = PETS(open_env(SWING_UP, 1), config, FIRST_SEED)
    result = evaluate(agent.act, SWING_UP, 3, purpose="test", begin=agent.begin)
    name = "planner with the simulator as its model on swing-up: score from the first episode"
    report(Row(name, result.score, "score", 850.0))
    env = make_simulator(SWING_UP, 1)
    env.reset(seed=0)
    model, steps = env.planning_model(), HORIZON * REPEAT * env.task.decimation
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.0, 1.0, (PLANS, HORIZON, 1)).astype(np.float32)
    controls = np.repeat(actions.astype(np.float64), REPEAT * env.task.decimation, axis=1)
    env_ids = np.zeros(PLANS, np.int64)
    bare, start = Batch(env.model, PLANS), np.repeat(env.batch.state, PLANS, axis=0)

    def planned() -> None:
        model.rollout(env_ids, actions, REPEAT)

    def plain() -> None:
        bare.state[:] = start
        bare.rollout(steps, controls, mujoco.mjtState.mjSTATE_CTRL, record=["qpos", "qvel"])

    times = rounds([plain, planned], ROUNDS)
    rate = median_rate(times, 1, PLANS * steps)
    report(Row("planning rollouts with rewards, over bare Batch.rollout", median_ratio(times, 0, 1), "times", 0.8,
               note=f"{rate / 1e6:.2f} M simulation steps/s"))  # fmt: skip


def _report_metric(report: Report, env_id: str, seeds: int, episodes: int, metric: str, goal: float) -> None:
    """Train with the recipe, and report a metric of the test episodes."""
    values, steps = [], 0
    for seed in range(seeds):
        agent = _learn(env_id, FIRST_SEED + seed).agent
        result = evaluate(agent.act, env_id, episodes, purpose="test", begin=agent.begin)
        values.append(float(getattr(result, metric) or 0.0))
        steps = agent.steps
    name = f"planner on {env_id.removeprefix('gantry/')}: {metric.replace('_mean', '')} after {steps:,} steps, median"
    report(Row(name, statistics.median(values), "", goal, note=_numbers(values)))


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}" for value in values)


def _optimal_share(agent: PETS) -> float:
    """Return the fraction of test episodes with the optimal return."""
    env = make_simulator(ROOMS, ROOMS_EPISODES)
    assert isinstance(env.task, VacuumRooms)
    observations, _ = env.reset(seed=environment_seed("test", 0, ROOMS_EPISODES))
    features = env.planning_model().features(observations)
    assert features is not None
    rooms = env.task.rooms
    levels = features[:, rooms:].astype(np.int64)
    best = best_returns(room_mdp(env.task.plan.room_neighbors))[state_number(features[:, :rooms].argmax(1), levels)]
    agent.begin(env)
    returns, running = np.zeros(ROOMS_EPISODES), np.ones(ROOMS_EPISODES, bool)
    while running.any():
        observations, rewards, terminations, truncations, _ = env.step(agent.act(observations))
        returns += rewards * running
        running &= ~(terminations | truncations)
    return float((returns > best - 1e-6).mean())


def best_returns(process: RoomMDP) -> np.ndarray:
    """Return the optimal undiscounted returns (S,) until all rooms are clean, by value iteration."""
    values = np.zeros(len(process.terminal))
    while True:
        improved = np.where(process.terminal, 0.0, (process.reward + values[process.next_state]).max(axis=1))
        if np.array_equal(improved, values):
            return values
        values = improved
