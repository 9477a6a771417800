"""Collecting a policy's episodes from many environments at once."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import create_empty_array
from numpy.typing import NDArray

from gantry.agents.protocol import Agent, EpisodicActor
from gantry.envs.registry import is_task
from gantry.errors import GantryError, shown
from gantry.machine.memory import ALWAYS_AT_HAND, require_memory
from gantry.runs.datasets.minari_files import DatasetWriter, leaves
from gantry.runs.environments import open_env
from gantry.runs.episodes import step_limit
from gantry.runs.seeds import environment_seed
from gantry.runs.teams import robots_in
from gantry.types import Array, Infos, Observation, Options

NUM_ENVS = 128
"""Environments stepped at once, in tasks of Gantry's kind."""
ROWS = 1024
"""Vector steps that are kept at first; the longest episode under way decides how many in the end."""
MOST = 10**9
"""Episodes or steps of a data set."""
STEP_BYTES, EPISODE_BYTES = 10, 2048
"""What the file holds of a step beside observation and action, and of an episode at least beside its steps."""
LEFT_OUT = {"final_obs", "_final_obs", "final_info", "_final_info"}


def collect(
    agent: Agent,
    env_id: str,
    folder: Path,
    env_options: Options | None = None,
    episodes: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    num_envs: int | None = None,
    deterministic: bool = True,
    progress: Callable[[int], None] | None = None,
) -> tuple[int, int]:
    """Let a policy act, and write its episodes as a data set; whole, or not at all.

    Every environment plays as many episodes, or steps, as the others, to one, so that short episodes are not likelier
    than long ones to be among them.

    Args:
        agent: acts.
        env_id: where.
        folder: of the data set; see `DatasetWriter`.
        env_options: passed on to the environment.
        episodes: how many; or
        steps: how many in all; each environment's last episode is cut there, which counts as truncated.
        seed: block of training seeds.
        num_envs: environments open at once; None: up to NUM_ENVS of a task of Gantry's kind, of others as many as in
            training.
        deterministic: act as evaluated; else as exploring.
        progress: called with how many of the episodes, or of the steps, are done.

    Returns:
        The number of episodes and of steps written.

    Raises:
        GantryError: numbers out of range, a folder that cannot be written, an environment that fails.
    """
    if (episodes is None) == (steps is None):
        raise GantryError("say how many --episodes or how many --steps to collect, not both")
    share = episodes if steps is None else steps
    assert share is not None
    if not 1 <= share <= MOST:
        raise GantryError(f"the number of episodes or steps to collect must be from 1 to {MOST:,}, not {shown(share)}")
    if num_envs is not None and num_envs < 1:
        raise GantryError(f"the number of environments (--num-envs) must be at least 1, not {shown(num_envs)}")
    many = num_envs or (NUM_ENVS if is_task(env_id) else agent.config.num_envs)
    number = min(many, share)
    if isinstance(agent, EpisodicActor) and (steps is not None or share > number):
        if steps is not None or num_envs is not None:
            raise GantryError(f"{agent.name} begins all its episodes at once: collect --episodes, without --num-envs")
        number = share
    first = environment_seed("training", seed, number, env_id)  # refuses too many
    quota = share // number + (np.arange(number) < share % number)
    env = open_env(env_id, number, env_options)
    try:
        if robots_in(env) is not None:
            raise GantryError(f"data sets hold the episodes of single robots, and {env_id} is a team's")
        writer = DatasetWriter(folder, env, env_id, env_options or {}, agent.name)
        try:
            _check_disk(folder, env, share, steps is None)
            limit = None if steps is not None or is_task(env_id) else _limit(env, env_options or {})
            _play(agent, env, writer, first, quota, steps is not None, deterministic, progress, limit)
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
    finally:
        env.close()
    return writer.episodes, writer.steps


def _limit(env: VectorEnv, options: Options) -> int:
    """Return the steps after which an episode counts as one that never ends."""
    own, asked = env.spec.max_episode_steps if env.spec is not None else None, options.get("max_episode_steps")
    return step_limit(None, max(own or 0, asked if isinstance(asked, int) else 0))


def _check_disk(folder: Path, env: VectorEnv, share: int, episodes: bool) -> None:
    """Refuse more steps, or episodes of a step at least, than the disk has room for (GantryError)."""
    spaces = (env.single_observation_space, env.single_action_space)
    of_step = STEP_BYTES + sum(part.nbytes for space in spaces for _, part in leaves(create_empty_array(space, 1), ""))
    wanted, place = share * (of_step + EPISODE_BYTES * episodes), folder.resolve().parent
    while not place.exists():
        place = place.parent
    if wanted > ALWAYS_AT_HAND and wanted > (free := shutil.disk_usage(place).free):
        raise GantryError(
            f"so many {'episodes' if episodes else 'steps'} would take at least {wanted / 2**30:,.1f} GiB on the disk, "
            f"and {free / 2**30:,.1f} GiB are free: collect fewer"
        )


def _play(
    agent: Agent, env: VectorEnv, writer: DatasetWriter, seed: int, quota: NDArray[np.int64], by_steps: bool,
    deterministic: bool, progress: Callable[[int], None] | None, limit: int | None,
) -> None:  # fmt: skip
    """Play until every environment has filled its quota (n,) of episodes or steps.

    Raises:
        GantryError: an episode goes on beyond `limit` steps, or the environment fails.
    """
    number, mode = len(quota), env.metadata.get("autoreset_mode")
    if mode not in (AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP):
        raise GantryError("data sets are collected where environments begin new episodes by themselves")
    observations, _ = env.reset(seed=seed)
    if isinstance(agent, EpisodicActor):
        agent.begin(env)
    rows = _Rows(number)
    starts, taken, played = (np.zeros(number, np.int64) for _ in range(3))
    waiting = np.zeros(number, np.bool_)
    while (open_ones := taken < quota).any():
        row = rows.next(starts[open_ones])
        starts -= rows.dropped
        actions = agent.act(observations, deterministic)
        after, rewards, terminated, truncated, infos = env.step(actions)
        over = (terminated | truncated) & ~waiting
        counts = open_ones & ~waiting
        if limit is not None and (~over & counts & (row - starts >= limit)).any():
            raise GantryError(
                f"an episode has not ended after {limit:,} steps: collect --steps in place of --episodes, or set a "
                "time limit with --env max_episode_steps=1000"
            )
        if by_steps:
            taken += counts
        ended = (over | (by_steps & (taken == quota))) & counts
        rows.write(row, "observations", observations)
        rows.write(row, "actions", actions)
        for name, values in (("rewards", rewards), ("terminations", terminated), ("truncations", truncated)):
            rows.write(row, name, np.asarray(values))
        rows.write(row, "infos", numbers_of(infos, number))
        for each in np.flatnonzero(ended).tolist():
            final = infos["final_obs"] if mode == AutoresetMode.SAME_STEP and over[each] else after
            episode = rows.episode(starts[each], row, each, final)
            episode["truncations"][-1] |= not over[each]
            writer.add(episode, seed + each if played[each] == 0 else None)
            played[each] += 1
            taken[each] += not by_steps
        starts[over] = row + 1
        if mode == AutoresetMode.NEXT_STEP:
            starts[waiting] = row + 1
            waiting = over
        observations = after
        if progress is not None:
            progress(int(taken.sum()))


def numbers_of(infos: Infos, number: int) -> Infos:
    """Return the entries of `infos` that are numbers of each of the environments, nested as they are."""
    kept: Infos = {}
    for name, values in infos.items():
        if not isinstance(name, str) or name in LEFT_OUT or "/" in name:
            continue
        if isinstance(values, dict):
            kept |= {name: inner} if (inner := numbers_of(values, number)) else {}
        elif isinstance(values, np.ndarray) and values.dtype.kind in "biuf" and values.shape[:1] == (number,):
            kept[name] = values
    return kept


class _Rows:
    """The latest vector steps, one row of each array a step.

    Attributes:
        dropped: rows that the last `next` removed at the front.
    """

    def __init__(self, number: int) -> None:
        self._number, self._capacity, self._used, self.dropped = number, ROWS, 0, 0
        self._columns: dict[str, Array] = {}

    def next(self, starts: NDArray[np.int64]) -> int:
        """Return a free row's number; rows before all of `starts` (k,) may be dropped."""
        self.dropped = 0
        if self._used == self._capacity:
            first = int(starts.min())
            if first < self._capacity // 2:
                self._capacity *= 2
            of_row = sum(column[0].nbytes for column in self._columns.values())
            require_memory(self._capacity * of_row // 4, "num_envs", "the episodes under way")
            for name, column in self._columns.items():
                moved = np.zeros((self._capacity, *column.shape[1:]), column.dtype)
                moved[: self._used - first] = column[first : self._used]
                self._columns[name] = moved
            self._used, self.dropped = self._used - first, first
        self._used += 1
        return self._used - 1

    def write(self, row: int, name: str, tree: Observation) -> None:
        """Write a vector step's arrays (n, …) into a row; those that came late are empty in the rows before."""
        for path, values in leaves(tree, name):
            if path not in self._columns:
                require_memory(self._capacity * values.nbytes // 4, "num_envs", "the episodes under way")
                empty = np.nan if values.dtype.kind == "f" and name == "infos" else 0
                self._columns[path] = np.full((self._capacity, *values.shape), empty, values.dtype)
            self._columns[path][row] = values

    def episode(self, first: int, last: int, env: int, final: Observation) -> dict[str, Array]:
        """Return the arrays of an environment's episode from one row to another, given observations after it (n, …)."""
        arrays = {}
        for path, column in self._columns.items():
            values = column[first : last + 1, env]
            if path.startswith("infos/"):
                before = np.full((1, *values.shape[1:]), np.nan if values.dtype.kind == "f" else 0, values.dtype)
                values = np.concatenate([before, values])
            arrays[path] = values.copy()
        last_one = _of(final, env)
        for path, value in leaves(last_one, "observations"):
            arrays[path] = np.concatenate([arrays[path], value[None].astype(arrays[path].dtype)])
        return arrays


def _of(observations: Observation, env: int) -> Observation:
    """Return one environment's of a batch of observations, which may be an array of objects."""
    if isinstance(observations, dict):
        return {name: _of(part, env) for name, part in observations.items()}
    if isinstance(observations, tuple):
        return tuple(_of(part, env) for part in observations)
    return observations[env]
