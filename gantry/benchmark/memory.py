"""`gantry bench memory`: recurrent PPO where observations hide something, beside PPO and sb3-contrib's RecurrentPPO."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import gantry.envs.velocity_masked  # noqa: F401  registers its environments
from gantry.agents.ppo import PPOConfig
from gantry.agents.protocol import AgentConfig
from gantry.agents.recurrent_ppo import RecurrentPPOConfig
from gantry.benchmark.cases import FIRST_SEED, trained
from gantry.benchmark.in_processes import in_processes
from gantry.benchmark.rows import Report, Row, chosen_parts, report_median
from gantry.machine.threads import torch_threads
from gantry.runs.environments import short_name
from gantry.runs.evaluate import Evaluation, evaluate_agent
from gantry.runs.recipes import recipe_for
from gantry.runs.train import close_agent, make_agent
from gantry.types import Json

SWING_UP, REACH, VACUUM = "gantry/CartPoleSwingUp-v0", "gantry/ReachPlanar-v0", "gantry/Vacuum-v0"
HIDDEN: Mapping[str, Json] = {
    SWING_UP: {"observe_velocity": False},
    REACH: {"target_visible": 0.2, "max_episode_steps": 50, "shaping": 0.97},
    VACUUM: {"observation": "local"},
}
"""Environment → the options that hide something in it."""
NO_VELOCITY: Mapping[str, float] = {"CartPoleNoVel-v1": 500.0, "PendulumNoVel-v1": -218.0}
"""Environment → RL Baselines3 Zoo's return of sb3-contrib's RecurrentPPO after 100,000 steps."""
Metric = Literal["score", "success", "coverage"]
"""What a median is of."""
RATE_STEPS = 100_000
"""Steps over which rates of learning are measured."""


@dataclasses.dataclass(frozen=True)
class _Case:
    """One training."""

    agent: str
    env_id: str
    env_options: Json
    config: AgentConfig
    steps: int
    seed: int
    folder: Path | None
    """Where the run is kept."""


@dataclasses.dataclass(frozen=True)
class _Bench:
    """Trains from several seeds, and reports medians over them."""

    report: Report
    seeds: int
    processes: int
    peers: bool
    out: Path | None

    def median(
        self, what: str, agent: str, env_id: str, options: Json, metric: Metric = "score",
        target: float | None = None, better: Literal["higher", "lower"] = "higher", memory: str = "",
    ) -> float:  # fmt: skip
        """Train with a recipe, report the median over seeds on test episodes, and return it.

        Args:
            what: what the row calls it.
            agent: `ppo`, with the recipe for the environment's defaults, or `recurrent-ppo`, with that for the options.
            env_id: the environment.
            options: of the environment.
            metric: what the median is of.
            target: see `Row`.
            better: see `Row`.
            memory: in place of the recipe's kind.
        """
        recipe = recipe_for(env_id, agent, options if agent == "recurrent-ppo" else None)
        config = recipe.config
        if memory:
            config = dataclasses.replace(config, memory=memory)  # type: ignore[type-var]
        seeds = range(FIRST_SEED, FIRST_SEED + self.seeds)
        named = [short_name(env_id), agent, memory, *(f"{name}={value}" for name, value in options.items())]
        folder = None if self.out is None else self.out / "-".join(filter(None, named))
        cases = [
            _Case(agent, env_id, options, config, recipe.total_steps, seed, folder and folder / f"seed{seed}")
            for seed in seeds
        ]
        results = list(in_processes(_trained, cases, self.processes))
        values = [_metric(result, metric) for result in results]
        name = f"{env_id.removeprefix('gantry/')}: {what}: {metric}, median of {self.seeds} seeds"
        return report_median(self.report, name, values, metric, target, better)


def _metric(result: Evaluation, metric: Metric) -> float:
    if metric == "coverage":
        return result.metrics["coverage"]
    return result.score if metric == "score" else result.success or 0.0


def measure(
    report: Report, seeds: int = 5, peers: bool = True, processes: int = 1, only: Sequence[str] = (),
    out: Path | None = None,
) -> None:  # fmt: skip
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds.
        peers: also measure sb3-contrib's RecurrentPPO.
        processes: trainings at a time.
        only: names of `PARTS`; all where there is none.
        out: keep the runs in folders below it; those that are there already go on where they stopped.

    Raises:
        GantryError: an unknown part.
    """
    names = chosen_parts("memory", PARTS, only)
    bench = _Bench(report, seeds, processes, peers, out)
    for name in names:
        PARTS[name](bench)


def _swing_up(bench: _Bench) -> None:
    """Swing-up with velocities by PPO, and without them by recurrent PPO."""
    full = bench.median("PPO, all observed", "ppo", SWING_UP, {})
    recurrent = bench.median("recurrent PPO, velocities hidden", "recurrent-ppo", SWING_UP, HIDDEN[SWING_UP])
    what = "swing-up without velocities: recurrent PPO's score over PPO's with them"
    bench.report(Row(what, recurrent / full, "×", 0.95))


def _memoryless(bench: _Bench) -> None:
    """Swing-up without velocities by PPO, with a stack of observations and without."""
    hidden = HIDDEN[SWING_UP]
    bench.median("PPO, velocities hidden, stack of 4", "ppo", SWING_UP, {**hidden, "stack": 4})
    bench.median("PPO, velocities hidden", "ppo", SWING_UP, hidden)


def _reach(bench: _Bench) -> None:
    """Reach a target that was visible for 0.2 s."""
    median = functools.partial(bench.median, env_id=REACH, options=HIDDEN[REACH], metric="success")
    median("recurrent PPO, target visible for 0.2 s", "recurrent-ppo", target=0.85)
    median("PPO, target visible for 0.2 s", "ppo", target=0.3, better="lower")


def _vacuum(bench: _Bench) -> None:
    """Clean an apartment, sensing the next cells only."""
    median = functools.partial(bench.median, env_id=VACUUM, options=HIDDEN[VACUUM], metric="coverage")
    median("recurrent PPO, local sensing", "recurrent-ppo")
    median("PPO, local sensing", "ppo")


def _no_velocity(bench: _Bench) -> None:
    """Gymnasium's environments without velocities."""
    for env_id, target in NO_VELOCITY.items():
        bench.median("recurrent PPO", "recurrent-ppo", env_id, {}, target=target)


def _kinds(bench: _Bench) -> None:
    """The other kinds of memory where there is a recipe for the GRU."""
    for memory, name in (("lstm", "LSTM"), ("attention", "attention")):
        bench.median(f"recurrent PPO, {name}", "recurrent-ppo", "CartPoleNoVel-v1", {}, memory=memory)


def _rates(bench: _Bench) -> None:
    """Report steps per second beside PPO's and sb3-contrib's."""
    config, hidden = RecurrentPPOConfig(num_envs=256, rollout_steps=32, memory_size=32), HIDDEN[SWING_UP]
    ours = _rate("recurrent-ppo", config, SWING_UP, hidden)
    plain = _rate("ppo", PPOConfig(num_envs=256, rollout_steps=32), SWING_UP, {})
    bench.report(
        Row("recurrent PPO's steps/s over PPO's, swing-up", ours / plain, "×", 0.35, note=f"{ours:,.0f} steps/s")
    )
    if bench.peers:
        ours = _rate("recurrent-ppo", RecurrentPPOConfig(num_envs=8, rollout_steps=128), "CartPole-v1", {})
        theirs = _their_rate()
        note = f"{ours:,.0f} and {theirs:,.0f} steps/s"
        bench.report(Row("recurrent PPO's steps/s over sb3-contrib's, CartPole-v1", ours / theirs, "×", 5.0, note=note))


PARTS: Mapping[str, Callable[[_Bench], None]] = {
    "swing-up": _swing_up,
    "memoryless": _memoryless,
    "reach": _reach,
    "vacuum": _vacuum,
    "no-velocity": _no_velocity,
    "kinds": _kinds,
    "rates": _rates,
}
"""What `--only` chooses from."""


def _trained(case: _Case) -> Evaluation:
    """Train, and return the result of test episodes."""
    learner = trained(case.env_id, case.agent, case.config, case.steps, case.seed, case.env_options, case.folder)
    return evaluate_agent(learner, case.env_id, 100, env_options=case.env_options, purpose="test")


def _rate(agent: str, config: PPOConfig | RecurrentPPOConfig, env_id: str, options: Json) -> float:
    """Return the steps per second that one agent learns from."""
    learner = make_agent(agent, env_id, config, FIRST_SEED, options)
    learner.learn(2 * config.num_envs * config.rollout_steps)
    first, started = learner.steps, time.perf_counter()
    learner.learn(first + RATE_STEPS)
    close_agent(learner)
    return RATE_STEPS / (time.perf_counter() - started)


def _their_rate() -> float:
    """Return the steps per second that sb3-contrib's RecurrentPPO learns from, with one thread and its LSTM of 64."""
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.env_util import make_vec_env

    steps = 8 * 128 * 8
    policy: Json = {"lstm_hidden_size": 64, "net_arch": [64]}
    with torch_threads(1):
        env = make_vec_env("CartPole-v1", 8)
        model = RecurrentPPO("MlpLstmPolicy", env, seed=0, policy_kwargs=policy, device="cpu")
        model.learn(8 * 128)
        started = time.perf_counter()
        model.learn(steps)
    return steps / (time.perf_counter() - started)
