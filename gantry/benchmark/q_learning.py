"""Q-learning's targets: its table compared with value iteration in the vacuum's rooms, and the frozen lake solved.

Learning uses the shipped settings and training seeds that these were not tuned on; times are of `learn` alone.
"""

import dataclasses
import itertools
import statistics

import numpy as np

from gantry.agents.q_learning import QLearning, QLearningConfig
from gantry.benchmark.cases import FIRST_SEED, train_case
from gantry.benchmark.rows import Report, Row
from gantry.envs.tasks.vacuum.plan_file import load_plan
from gantry.envs.tasks.vacuum.rooms import LEVELS, room_mdp, state_number
from gantry.optimal_control.value_iteration import deterministic_mdp, reachable_states, value_iteration
from gantry.runs.evaluate import evaluate
from gantry.runs.recipes import tuned_config
from gantry.runs.train import close_agent

ROOMS, LAKE = "gantry/VacuumRooms-v0", "FrozenLake-v1"
NOT_SLIPPERY = {"is_slippery": False}
EPISODES = 100
SAME = 1e-9
"""Actions whose exact values differ by less are equally good."""


@dataclasses.dataclass(frozen=True)
class Exact:
    """Exact action values of a finite MDP, and its reachable states."""

    values: np.ndarray
    """(S, A) Q*."""
    reached: np.ndarray
    """(S,) bool, reachable from an initial state."""

    def optimal(self, table: np.ndarray) -> float:
        """Return the share of the reachable states in which the best action of a table (S, A) is optimal."""
        chosen = np.take_along_axis(self.values, table.argmax(axis=1)[:, None], axis=1)[:, 0]
        return float((chosen >= self.values.max(axis=1) - SAME)[self.reached].mean())

    def error(self, table: np.ndarray) -> float:
        """Return the largest relative error of a table (S, A) in the reachable states."""
        exact = self.values[self.reached]
        return float((np.abs(table[self.reached] - exact) / np.abs(exact)).max())


def exact_rooms(gamma: float, plan_name: str = "apartment") -> Exact:
    """Return exact action values of a floor plan at the level of rooms, and the states reachable from random starts.

    In the apartment none of these values is 0, so that relative errors are meaningful.
    """
    plan = load_plan(plan_name)
    pure = room_mdp(plan.room_neighbors)
    process = deterministic_mdp(pure.next_state, pure.reward, pure.terminal)
    dirt = np.array([levels for levels in itertools.product(range(LEVELS), repeat=len(plan.rooms)) if any(levels)])
    starts = state_number(np.full(len(dirt), plan.room[plan.start]), dirt)
    return Exact(value_iteration(process, gamma), reachable_states(process, starts))


def measure(report: Report, seeds: int = 5) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds.
    """
    measure_rooms(report, seeds)
    measure_lake(report, seeds)


def measure_rooms(report: Report, seeds: int = 5) -> None:
    """Report the share of optimal actions and the error of the table, worst of the seeds, and the learning time."""
    exact = exact_rooms(tuned_config(ROOMS, QLearningConfig).gamma)
    shares, errors, spent = [], [], []
    for seed in range(seeds):
        agent, _, seconds = train_case(ROOMS, QLearning.name, FIRST_SEED + seed)
        assert isinstance(agent, QLearning)
        shares.append(exact.optimal(agent.table))
        errors.append(exact.error(agent.table))
        spent.append(seconds)
        close_agent(agent)
    note = f"of {int(exact.reached.sum())} reachable states, worst of {seeds} seeds"
    report(Row("QLearning on VacuumRooms: best action is optimal", min(shares), "share", 1.0, note=note))
    note = f"largest, as a share of Q*, worst of {seeds} seeds"
    report(Row("QLearning on VacuumRooms: error of the table", max(errors), "share", 0.01, "lower", note))
    note = ", ".join(f"{seconds:.1f} s" for seconds in spent)
    report(Row("QLearning on VacuumRooms: learning time, median", statistics.median(spent), "s", 5.0, "lower", note))


def measure_lake(report: Report, seeds: int = 5) -> None:
    """Report the lowest success rate of the seeds, and the learning time, on ice that is not slippery."""
    returns, spent = [], []
    for seed in range(seeds):
        agent, options, seconds = train_case(LAKE, QLearning.name, FIRST_SEED + seed, NOT_SLIPPERY)
        returns.append(evaluate(agent.act, LAKE, EPISODES, 0, options, "test").return_mean)
        spent.append(seconds)
    name = "QLearning on FrozenLake-v1, not slippery"
    note = f"worst of {seeds} seeds"
    report(Row(f"{name}: success", min(returns), "share", 1.0, note=note))  # reaching the goal is the only reward
    note = ", ".join(f"{seconds:.1f} s" for seconds in spent)
    report(Row(f"{name}: learning time, median", statistics.median(spent), "s", 2.0, "lower", note))
