"""What scores are measured by: a random policy, and optimal control, which knows the dynamics and the reward."""

import importlib.resources
import json
from pathlib import Path

import gymnasium
from gymnasium.vector.utils import batch_space

from gantry.envs.registry import is_task
from gantry.errors import GantryError
from gantry.files import read_json
from gantry.runs.environments import open_env, registered_id
from gantry.runs.evaluate import evaluate
from gantry.types import Json

PUBLISHED = "published_scores.json"
REFERENCE = "reference.json"
"""What is asked for, in a reference's folder."""
EPISODES = 3
"""Episodes that optimal control plans, each by itself."""


def measure_reference(folder: Path) -> Json:
    """Return the scores of a random policy and of iterative LQR in the environment that `reference.json` names."""
    asked = read_json(folder / REFERENCE)
    env_id, options = str(asked["env_id"]), dict(asked["env_options"])
    result: Json = {"random": random_score(env_id, options, int(asked["episodes"])), "ilqr": None}
    if asked["ilqr"] and is_task(env_id):
        from gantry.optimal_control.solve import solve

        try:
            result["ilqr"] = solve(env_id, "ilqr", EPISODES, 0, options).evaluation.score
        except GantryError as error:
            result["why"] = str(error)
    return result


def random_score(env_id: str, options: Json, episodes: int) -> float:
    """Return the mean score of test episodes with uniformly random actions."""
    env = open_env(env_id, None, options)
    space = batch_space(env.action_space, episodes)
    env.close()
    space.seed(0)
    return evaluate(lambda observations: space.sample(), env_id, episodes, 0, options, "test").score


def goal_of(env_id: str) -> tuple[str, float] | None:
    """Return a score to measure others by, and what it is: where Gymnasium calls an environment solved, or the highest
    published one; None where neither is known.
    """
    spec = gymnasium.registry.get(registered_id(env_id))
    if spec is not None and spec.reward_threshold is not None:
        return "solved", float(spec.reward_threshold)
    scores = [(score, name) for name, score, _ in published(env_id)]
    return (f"published: {max(scores)[1]}", max(scores)[0]) if scores else None


def published(env_id: str) -> list[tuple[str, float, str]]:
    """Return the scores that others published for an environment: name, score, source."""
    text = (importlib.resources.files("gantry.benchmark") / PUBLISHED).read_text(encoding="utf-8")
    return [
        (name, score, collection["source"])
        for collection in json.loads(text).values()
        for name, score in collection["scores"].get(registered_id(env_id), [])
    ]
