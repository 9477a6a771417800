"""Evaluation: how well a policy does on episodes that it never trained on."""

import dataclasses
import math

import numpy as np
from gymnasium.vector import VectorEnv

from gantry.agents.protocol import Agent, EpisodicActor
from gantry.envs.registry import is_task
from gantry.errors import GantryError, shown
from gantry.runs.environments import open_env
from gantry.runs.episodes import Act, Begin, Episode, as_number, play, step_limit
from gantry.runs.notebook import table_html
from gantry.runs.scores import score
from gantry.runs.seeds import Purpose, environment_seed
from gantry.runs.teams import acting_in
from gantry.types import SUCCESS, Array, Json, Observation, Options

MAX_EPISODES = 100_000
COPIES = 8
"""Copies of an environment that others made which are open at once, where nobody says how many."""
NO_METRICS = ("final_obs", "_final_obs", "objective", "trial_episode", "elapsed_steps")
"""What the simulator says beside the task's metrics."""


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
    used_mean: float | None
    """Mean per step of the reward in use, where it is not the task's own, which score and return are made of."""
    cut: int
    """How many episodes were cut because they reached the cap on steps; they count as they were."""
    seed: int
    trial_scores: tuple[float, ...] = ()
    """Mean score of the first, second, … episode of a trial, where episodes are joined in trials."""

    def rows(self) -> list[tuple[str, str]]:
        """Return names and values as people read them, the score first."""
        low, high = self.score_ci95
        rows = [
            ("score, mean", f"{self.score:.1f}"),
            ("95 % interval of the mean", f"{low:.1f} to {high:.1f}"),
            ("score, interquartile mean", f"{self.score_iqm:.1f}"),
        ]
        rows += [
            (f"score, episode {place} of a trial", f"{each:.1f}") for place, each in enumerate(self.trial_scores, 1)
        ]
        if self.success is not None:
            rows.append(("success", f"{self.success:.1%}"))
        rows.append(("return, mean", f"{self.return_mean:.2f}"))
        if self.used_mean is not None:
            rows.append(("reward in use, mean of a step", f"{self.used_mean:.3f}"))
        rows.append(("episode length, mean", f"{self.length_mean:.1f} steps"))
        if self.cut:
            rows.append(("cut by the cap on steps", f"{self.cut} of {self.episodes} episodes"))
        rows += [(f"reward term {name}", f"{value:.3f}") for name, value in self.terms.items()]
        rows += [(f"{name.replace('_', ' ')} at the end", f"{value:.3f}") for name, value in self.metrics.items()]
        return rows

    def _repr_html_(self) -> str:
        """Return it as a notebook's table."""
        return table_html(f"{self.episodes} episodes", self.rows())

    def to_json(self) -> Json:
        """Return it as JSON values."""
        return {**dataclasses.asdict(self), "score_ci95": list(self.score_ci95)}


@dataclasses.dataclass(frozen=True)
class Played:
    """What one episode, or one batch of n episodes, brought: arrays of shape (n,)."""

    returns: np.ndarray
    lengths: np.ndarray
    cut: np.ndarray
    reported: dict[str, np.ndarray]
    """What the environment reported at the end; NaN for the episodes where it did not."""
    terms: dict[str, float]
    """Sum of each named reward term over all steps."""
    used: float | None = None
    """Sum of the reward in use over all steps, where it is not the task's own."""
    trials: list[np.ndarray] = dataclasses.field(default_factory=list)
    """Returns and lengths, (2, n), of the first, second, … episode of the trials."""


def check_episodes(episodes: int) -> None:
    """Refuse a number of episodes that no evaluation takes; raises GantryError."""
    if not 1 <= episodes <= MAX_EPISODES:
        raise GantryError(f"the number of episodes must be from 1 to {MAX_EPISODES}, not {shown(episodes)}")


def evaluate(
    act: Act,
    env_id: str,
    episodes: int = 100,
    seed: int = 0,
    env_options: Json | None = None,
    purpose: Purpose = "evaluation",
    begin: Begin | None = None,
    num_envs: int | None = None,
    max_steps: int | None = None,
) -> Evaluation:
    """Let a policy act in a number of episodes, and summarize them.

    Args:
        act: (n, ...) observations to (n, ...) actions.
        env_id: Gantry's, Gymnasium's or `module:ID`.
        episodes: each is the first one of an environment with a seed of its own.
        seed: which block of the purpose's seeds.
        env_options: passed on to the environment.
        purpose: the range that environment seeds are from.
        begin: called once episodes have begun, before the first action.
        num_envs: environments open at once; None opens all episodes of a task of Gantry's kind, and COPIES of any other
            environment.
        max_steps: steps after which an episode is cut; None allows MAX_STEPS, or the environment's own time limit where
            that is longer.

    Raises:
        GantryError: a number out of range, or an environment that fails.
    """
    check_episodes(episodes)
    if num_envs is not None and num_envs < 1:
        raise GantryError(f"the number of environments (--num-envs) must be at least 1, not {num_envs}")
    options = env_options or {}
    first = environment_seed(purpose, seed, episodes, env_id)
    if is_task(env_id):
        width = min(episodes, num_envs or episodes)
        counts = [min(width, episodes - start) for start in range(0, episodes, width)]
        played = [
            play_task(act, env_id, count, first + number * width, options, begin, max_steps)
            for number, count in enumerate(counts)
        ]
    else:
        seeds = range(first, first + episodes)
        ended = play(act, env_id, seeds, options, num_envs or COPIES, max_steps, begin)
        by_seed = {episode.seed: _of_episode(episode) for episode in ended}
        played = [by_seed[each] for each in seeds]
    return _summary(env_id, played, episodes, seed)


def play_task(
    act: Act, env_id: str, episodes: int, seed: int | np.ndarray, options: Options, begin: Begin | None,
    max_steps: int | None = None,
) -> Played:  # fmt: skip
    """Play the episodes of a task of Gantry's kind all at once, an environment each.

    Args:
        act: the policy.
        env_id: the task.
        episodes: how many, n.
        seed: the first one's, from which the others count on, or all of them, (n,).
        options: of the environment.
        begin: called once episodes have begun.
        max_steps: see `step_limit`.
    """
    env = open_env(env_id, episodes, options)
    try:
        limit = step_limit(max_steps, env.spec.max_episode_steps if env.spec is not None else None)
        act = acting_in(env, act)
        observations, _ = env.reset(seed=seed)  # type: ignore[arg-type]  # Gantry's simulator takes a seed for each
        if begin is not None:
            begin(env)
        returns, lengths = np.zeros(episodes), np.zeros(episodes)
        last: dict[str, np.ndarray] = {}
        terms: dict[str, float] = {}
        used: float | None = None
        trials: list[np.ndarray] = []
        running = np.ones(episodes, bool)
        for step in range(1, limit + 1):
            observations, rewards, terminations, truncations, infos = env.step(act(observations))
            if "objective" in infos:
                used = (used or 0.0) + float(np.sum(rewards * running))
                rewards = infos["objective"]
            returns += rewards * running
            lengths += running * infos.get("elapsed_steps", 1)  # a skill takes several
            if "trial_episode" in infos:
                _add_to_trials(trials, infos["trial_episode"], rewards, running)
            for name, values in infos["terms"].items():
                terms[name] = terms.get(name, 0.0) + float(np.sum(values * running))
            ended = (terminations | truncations) & running
            leaving = running if step == limit else ended
            if leaving.any():
                for name, values in infos.items():
                    array = np.asarray(values)
                    if array.shape == (episodes,) and array.dtype.kind in "biuf" and name not in NO_METRICS:
                        last.setdefault(name, _unsaid(array, episodes))[leaving] = array[leaving]
            running &= ~ended
            if not running.any():
                break
    finally:
        env.close()
    return Played(returns, lengths, running, last, terms, used, trials)


def _add_to_trials(trials: list[np.ndarray], places: np.ndarray, rewards: np.ndarray, running: np.ndarray) -> None:
    """Add a step's rewards (n,) and lengths to the sums of the episodes that are at `places` (n,) in their trials."""
    while len(trials) <= places.max():
        trials.append(np.zeros((2, len(places))))
    for place in np.unique(places):
        trials[place] += np.where(running & (places == place), [rewards, np.ones(len(places))], 0.0)


def _of_episode(episode: Episode) -> Played:
    numbers = {name: as_number(value) for name, value in episode.info.items() if isinstance(name, str)}
    return Played(
        np.array([episode.total]),
        np.array([float(episode.steps)]),
        np.array([episode.cut]),
        {name: value for name, value in numbers.items() if value is not None},
        {},
    )


def _summary(env_id: str, played: list[Played], episodes: int, seed: int) -> Evaluation:
    returns, lengths, cut = (
        np.concatenate([getattr(part, name) for part in played]) for name in ("returns", "lengths", "cut")
    )
    names = dict.fromkeys(name for part in played for name in part.reported)
    kinds = {name: value for part in played for name, value in part.reported.items()}
    reported = {
        name: np.concatenate([part.reported.get(name, _unsaid(kinds[name], len(part.returns))) for part in played])
        for name in names
    }
    said = [reported.pop(name) for name in SUCCESS if name in reported]
    means = {name: values[np.isfinite(values)] for name, values in reported.items()}
    scores = np.asarray(score(env_id, returns, lengths))
    total_steps = float(lengths.sum())
    terms = dict.fromkeys((name for part in played for name in part.terms), 0.0)
    for part in played:
        for name, total in part.terms.items():
            terms[name] += total
    trial_scores = []
    for place in range(max(len(part.trials) for part in played)):
        sums, steps = np.concatenate([part.trials[place] for part in played if place < len(part.trials)], axis=1)
        trial_scores.append(float(np.mean(score(env_id, sums[steps > 0], steps[steps > 0]))))
    used = [part.used for part in played if part.used is not None]
    from scipy import stats  # takes over a second to import, which training does without

    return Evaluation(
        score=float(scores.mean()),
        score_iqm=float(stats.trim_mean(scores, 0.25)),
        score_ci95=confidence_interval(scores),
        # Some environments say it only of the episodes that succeed.
        success=float(np.nan_to_num(said[0]).mean()) if said else None,
        return_mean=float(returns.mean()),
        length_mean=float(lengths.mean()),
        terms={name: total / total_steps for name, total in terms.items()},
        metrics={name: float(values.mean()) for name, values in means.items() if len(values)},
        episodes=episodes,
        used_mean=sum(used) / total_steps if used else None,
        cut=int(cut.sum()),
        seed=seed,
        trial_scores=tuple(trial_scores),
    )


def _unsaid(values: np.ndarray, episodes: int) -> np.ndarray:
    """Return (episodes,) of what is said where nothing is: that a flag such as `values` is not set, or NaN."""
    return np.full(episodes, 0.0 if values.dtype == bool else math.nan)


def evaluate_agent(
    agent: Agent,
    env_id: str,
    episodes: int = 100,
    seed: int = 0,
    env_options: Json | None = None,
    purpose: Purpose = "evaluation",
    num_envs: int | None = None,
    max_steps: int | None = None,
    deterministic: bool = True,
) -> Evaluation:
    """Evaluate an agent's policy; arguments as for `evaluate`.

    Environments that others made are opened at most as often as the agent trained in at once. With
    `deterministic=False` the policy acts as it explores.
    """
    if num_envs is None and not is_task(env_id):
        num_envs = agent.config.num_envs
    act, begin = policy_of(agent, deterministic)
    return evaluate(act, env_id, episodes, seed, env_options, purpose, begin, num_envs, max_steps)


class Exploring:
    """An agent that acts as it explores, and says nothing of why it acts."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def begin(self, env: VectorEnv) -> None:
        """Begin new episodes in all environments of `env`."""
        if isinstance(self._agent, EpisodicActor):
            self._agent.begin(env)

    def act(self, observation: Observation) -> Array:
        """Return sampled actions (k, *action shape) for a batch of observations (k, *observation shape)."""
        return self._agent.act(observation, deterministic=False)


def policy_of(agent: Agent, deterministic: bool = True) -> tuple[Act, Begin | None]:
    """Return how an agent acts, and what is called when its episodes begin."""

    def act(observations: Observation) -> Array:
        return agent.act(observations, deterministic)

    return act, agent.begin if isinstance(agent, EpisodicActor) else None


def confidence_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of the mean of `values` (n,); deterministic."""
    if len(values) < 2:
        return float(values[0]), float(values[0])
    from scipy import stats

    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(interval.low), float(interval.high)
