"""Compare a recipe of `gantry tune` with the settings that Gantry has without it, at equal seconds, on test seeds.

python scripts/recipe_against_default.py runs/tune-Pendulum-v1-ppo/recipe.json --seconds 10 --seeds 5
"""

import argparse
import statistics
import time
from pathlib import Path

from gantry.runs.evaluate import evaluate_agent
from gantry.runs.pace import steps_within
from gantry.runs.recipes import Recipe, default_settings, find_recipe
from gantry.runs.recipes.recipe_file import read_recipe
from gantry.runs.train import make_agent

FIRST_SEED = 100
"""Training seeds below were for tuning by hand."""
EPISODES = 100


def score(recipe: Recipe, config, seconds: float, seed: int) -> tuple[float, int]:
    """Train for so many seconds; return the score on test seeds, and the steps."""
    case = recipe.agent, recipe.env_id, config, seed, recipe.env_options
    trial = make_agent(*case)
    total_steps = steps_within(seconds, trial)
    trial.env.close()
    agent = make_agent(*case)
    started = time.perf_counter()
    agent.learn(total_steps, lambda agent, metrics: time.perf_counter() - started < seconds)
    agent.env.close()
    return evaluate_agent(agent, recipe.env_id, EPISODES, 0, dict(recipe.env_options), "test").score, agent.steps


def main() -> None:
    """Print a line per training seed, in alternation, and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    recipe = read_recipe(arguments.recipe)
    shipped = find_recipe(recipe.env_id, recipe.agent, recipe.env_options)
    default = shipped.config if shipped else default_settings(recipe.env_id, recipe.agent, recipe.env_options)
    scores: dict[str, list[float]] = {"default": [], "recipe": []}
    for seed in range(FIRST_SEED, FIRST_SEED + arguments.seeds):
        for name, config in (("default", default), ("recipe", recipe.config)):
            found, steps = score(recipe, config, arguments.seconds, seed)
            scores[name].append(found)
            print(f"seed {seed}  {name:8} {found:10.1f}  {steps:9,} steps", flush=True)
    for name, found in scores.items():
        print(f"{name:8} mean {statistics.mean(found):.1f}, median {statistics.median(found):.1f}")


if __name__ == "__main__":
    main()
