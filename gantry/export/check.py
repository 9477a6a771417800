"""Measurements of an exported policy: how far its actions are from the agent's, and how long they take."""

import statistics
import time
from dataclasses import dataclass

import numpy as np

from gantry.agents.protocol import Agent, EpisodicActor
from gantry.export.onnx_policy import OnnxPolicy
from gantry.runs.environments import open_training_env
from gantry.runs.seeds import environment_seed
from gantry.spaces.maps import ObservationMap
from gantry.types import Options

COPIES = 50
"""Environments that the observations are from."""
TIMED = 5_000
"""Actions that are timed."""


@dataclass(frozen=True)
class Check:
    """What a check found."""

    observations: int
    largest_difference: float
    """Of any number of any action from the agent's own, as a share of it where that is above 1."""
    different: int
    """Actions that differ by more than 1e-5, or that share of a number above 1: choices between nearly equal values."""
    microseconds: float
    """Median time of an action for one observation, by one thread."""


def check_export(
    agent: Agent, policy: OnnxPolicy, env_id: str, env_options: Options, observations: int = 10_000
) -> Check:
    """Compare an exported policy with the agent that it is from, on observations that the agent meets.

    Args:
        agent: loaded from the run.
        policy: the exported one.
        env_id: where both act.
        env_options: of the environment.
        observations: how many, at least.
    """
    env = open_training_env(env_id, COPIES, env_options)
    seen, differences = 0, []
    try:
        observation, _ = env.reset(seed=environment_seed("test", 0, COPIES, env_id))
        if isinstance(agent, EpisodicActor):
            agent.begin(env)
        policy.begin(env)
        while seen < observations:
            actions, exported = agent.act(observation), policy.act(observation)
            distance = np.abs(exported.astype(np.float64) - actions.astype(np.float64))
            distance /= np.maximum(1.0, np.abs(actions))
            differences.append(distance.reshape(len(actions), -1).max(axis=1))
            seen += len(actions)
            observation = env.step(actions)[0]
    finally:
        env.close()
    single = ObservationMap(policy.observation_space).vectors(observation, np.arange(1))
    times = []
    for _ in range(TIMED):
        start = time.perf_counter()
        policy.run(single)
        times.append(time.perf_counter() - start)
    largest = np.concatenate(differences)
    return Check(seen, float(largest.max()), int((largest > 1e-5).sum()), 1e6 * statistics.median(times))
