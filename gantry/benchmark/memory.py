"""`gantry bench memory`: recurrent PPO where observations hide something, beside PPO and sb3-contrib's RecurrentPPO."""

import dataclasses
import statistics
import time
from collections.abc import Mapping
from typing import Literal

import gantry.envs.velocity_masked  # noqa: F401  registers its environments
from gantry.agents.parts.threads import torch_threads
from gantry.agents.ppo import PPOConfig
from gantry.agents.protocol import AgentConfig
from gantry.agents.recurrent_ppo import RecurrentPPOConfig
from gantry.benchmark.cases import FIRST_SEED
from gantry.benchmark.in_processes import in_processes
from gantry.benchmark.rows import Report, Row
from gantry.runs.evaluate import Evaluation, evaluate_agent
from gantry.runs.recipes import recipe_for
from gantry.runs.train import close_agent, make_agent
from gantry.types import Json

SWING_UP, REACH = "gantry/CartPoleSwingUp-v0", "gantry/ReachPlanar-v0"
SMALL = RecurrentPPOConfig(
    num_envs=16, rollout_steps=64, minibatch_size=512, epochs=6, learning_rate=2e-3, learning_rate_schedule="linear",
    memory_size=32, max_gradient_norm=2.0,
)  # fmt: skip
SETTINGS: dict[str, tuple[AgentConfig, int]] = {
    REACH: (
        RecurrentPPOConfig(
            num_envs=128, rollout_steps=64, minibatch_size=2048, learning_rate=1.5e-3, learning_rate_schedule="linear",
            gamma=0.97, max_gradient_norm=2.0,
        ),
        1_500_000,
    ),
    "CartPoleNoVel-v1": (SMALL, 100_000),
    "PendulumNoVel-v1": (dataclasses.replace(SMALL, gamma=0.9), 100_000),
}  # fmt: skip
"""Environment → recurrent PPO's settings and steps, where there is no recipe; not tuned."""
NO_VELOCITY: Mapping[str, float] = {"CartPoleNoVel-v1": 500.0, "PendulumNoVel-v1": -218.0}
"""Environment → RL Baselines3 Zoo's return of sb3-contrib's RecurrentPPO after 100,000 steps."""
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


def measure(report: Report, seeds: int = 5, peers: bool = True, processes: int = 1) -> None:
    """Measure and report every row.

    Args:
        report: called with each row as soon as it is known.
        seeds: training seeds.
        peers: also measure sb3-contrib's RecurrentPPO.
        processes: trainings at a time.
    """
    hidden: Json = {"observe_velocity": False}
    full = _median(report, "PPO, all observed", "ppo", SWING_UP, {}, seeds, processes)
    _median(report, "PPO, velocities hidden", "ppo", SWING_UP, hidden, seeds, processes)
    _median(report, "PPO, velocities hidden, stack of 4", "ppo", SWING_UP, {**hidden, "stack": 4}, seeds, processes)
    recurrent = _median(report, "recurrent PPO, velocities hidden", "recurrent-ppo", SWING_UP, hidden, seeds, processes)
    report(Row("swing-up without velocities: recurrent PPO's score over PPO's with them", recurrent / full, "×", 0.95))
    seen: Json = {"target_visible": 0.2}
    _median(report, "PPO, target visible for 0.2 s", "ppo", REACH, seen, seeds, processes, "success", 0.3, "lower")
    _median(
        report,
        "recurrent PPO, target visible for 0.2 s",
        "recurrent-ppo",
        REACH,
        seen,
        seeds,
        processes,
        "success",
        0.85,
    )
    for env_id, target in NO_VELOCITY.items():
        _median(report, "recurrent PPO", "recurrent-ppo", env_id, {}, seeds, processes, target=target)
    ours = _rate("recurrent-ppo", RecurrentPPOConfig(num_envs=256, rollout_steps=32, memory_size=32), SWING_UP, hidden)
    plain = _rate("ppo", PPOConfig(num_envs=256, rollout_steps=32), SWING_UP, {})
    report(Row("recurrent PPO's steps/s over PPO's, swing-up", ours / plain, "×", 0.35, note=f"{ours:,.0f} steps/s"))
    if peers:
        ours = _rate("recurrent-ppo", RecurrentPPOConfig(num_envs=8, rollout_steps=128), "CartPole-v1", {})
        theirs = _their_rate()
        note = f"{ours:,.0f} and {theirs:,.0f} steps/s"
        report(Row("recurrent PPO's steps/s over sb3-contrib's, CartPole-v1", ours / theirs, "×", 5.0, note=note))


def _median(
    report: Report, what: str, agent: str, env_id: str, options: Json, seeds: int, processes: int,
    metric: str = "score", target: float | None = None, better: Literal["higher", "lower"] = "higher",
) -> float:  # fmt: skip
    """Train with the recipe or settings, report the median over seeds on test episodes, and return it."""
    if agent == "recurrent-ppo" and env_id in SETTINGS:
        config, steps = SETTINGS[env_id]
    else:
        recipe = recipe_for(env_id, agent, options if agent == "recurrent-ppo" else None)
        config, steps = recipe.config, recipe.total_steps
    cases = [_Case(agent, env_id, options, config, steps, seed) for seed in range(FIRST_SEED, FIRST_SEED + seeds)]
    results = list(in_processes(_trained, cases, processes))
    values = [result.score if metric == "score" else result.success or 0.0 for result in results]
    name = f"{env_id.removeprefix('gantry/')}: {what}: {metric}, median of {seeds} seeds"
    note = ", ".join(f"{value:.3g}" for value in values)
    median = statistics.median(values)
    report(Row(name, median, metric, target, better, note))
    return median


def _trained(case: _Case) -> Evaluation:
    """Train, and return the result of test episodes."""
    learner = make_agent(case.agent, case.env_id, case.config, case.seed, case.env_options)
    learner.learn(case.steps)
    result = evaluate_agent(learner, case.env_id, 100, env_options=case.env_options, purpose="test")
    close_agent(learner)
    return result


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
