"""Evaluation: how well a policy does on episodes that it never trained on."""

import dataclasses
from collections.abc import Callable

import numpy as np
from gymnasium.vector import VectorEnv
from scipy import stats

from gantry.agents.protocol import Agent, EpisodicActor
from gantry.errors import GantryError
from gantry.runs.environments import open_env
from gantry.runs.scores import score
from gantry.runs.seeds import Purpose, environment_seed
from gantry.types import Json

MAX_EPISODES = 100_000

Act = Callable[[np.ndarray], np.ndarray]
Begin = Callable[[VectorEnv], None]
"""Called when episodes have begun, with their environment, for agents that carry something from step to step."""


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a number of episodes showed."""

    score: float
    """Mean over episodes: 1000 × mean reward for Gantry's kind of tasks, the return for others."""
    score_iqm: float
    """Interquartile mean: the mean of the middle half of the episodes."""
    score_ci95: tuple[float, float]
    """95 % interval of the mean, by percentile bootstrap over episodes."""
    success: float | None
    """Share of episodes that ended in success; None where the environment does not say."""
    return_mean: float
    length_mean: float
    terms: dict[str, float]
    """Mean of each named reward term over all steps."""
    metrics: dict[str, float]
    """Mean of each metric that the environment reports beside the reward, at the end of the episodes."""
    episodes: int
    seed: int

    def to_json(self) -> Json:
        """Return it as JSON values."""
        return {**dataclasses.asdict(self), "score_ci95": list(self.score_ci95)}


def evaluate(
    act: Act,
    env_id: str,
    episodes: int = 100,
    seed: int = 0,
    env_options: Json | None = None,
    purpose: Purpose = "evaluation",
    begin: Begin | None = None,
) -> Evaluation:
    """Let a policy act in `episodes` episodes at once, and summarize them.

    Args:
        act: (n, ...) observations to (n, ...) actions.
        env_id: Gantry's, Gymnasium's or `module:ID`.
        episodes: each is the first one of an environment with a seed of its own.
        seed: which block of the purpose's seeds.
        env_options: passed on to the environment.
        purpose: the range that environment seeds are from.
        begin: called once the episodes have begun, before the first action.

    Raises:
        GantryError: fewer than one episode or more than MAX_EPISODES, or an environment that fails.
    """
    if not 1 <= episodes <= MAX_EPISODES:
        raise GantryError(f"the number of episodes must be from 1 to {MAX_EPISODES}, not {episodes}")
    env = open_env(env_id, episodes, env_options)
    try:
        observations, _ = env.reset(seed=environment_seed(purpose, seed, episodes))
        if begin is not None:
            begin(env)
        returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
        last: dict[str, np.ndarray] = {}
        terms: dict[str, float] = {}
        running = np.ones(episodes, bool)
        while running.any():
            observations, rewards, terminations, truncations, infos = env.step(act(observations))
            returns += rewards * running
            lengths += running
            for name, values in infos.get("terms", {}).items():
                if not name.startswith("_"):
                    terms[name] = terms.get(name, 0.0) + float(np.sum(values * running))
            ended = (terminations | truncations) & running
            if ended.any():
                for name, values in infos.get("final_info", infos).items():
                    array = np.asarray(values)
                    numeric = array.shape == (episodes,) and array.dtype.kind in "biuf"
                    if numeric and not name.startswith(("_", "final_obs")):
                        last.setdefault(name, np.zeros(episodes))[ended] = array[ended]
            running &= ~ended
    finally:
        env.close()
    success = last.pop("success", last.pop("is_success", None))
    scores = np.asarray(score(env_id, returns, lengths.astype(np.float64)))
    return Evaluation(
        score=float(scores.mean()),
        score_iqm=float(stats.trim_mean(scores, 0.25)),
        score_ci95=confidence_interval(scores),
        success=None if success is None else float(success.mean()),
        return_mean=float(returns.mean()),
        length_mean=float(lengths.mean()),
        terms={name: total / float(lengths.sum()) for name, total in terms.items()},
        metrics={name: float(values.mean()) for name, values in last.items()},
        episodes=episodes,
        seed=seed,
    )


def evaluate_agent(
    agent: Agent,
    env_id: str,
    episodes: int = 100,
    seed: int = 0,
    env_options: Json | None = None,
    purpose: Purpose = "evaluation",
) -> Evaluation:
    """Evaluate an agent's deterministic policy; arguments as for `evaluate`."""
    begin = agent.begin if isinstance(agent, EpisodicActor) else None
    return evaluate(agent.act, env_id, episodes, seed, env_options, purpose, begin)


def confidence_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the mean of `values` (n,); deterministic."""
    if len(values) < 2:
        return float(values[0]), float(values[0])
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)
