"""`gantry evaluate`: score a trained run, or an exported policy, on episodes it never saw."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.markup import escape
from rich.table import Table

from gantry.cli.options import env_options, environment_for
from gantry.cli.output import console, counted, parse, print_json
from gantry.errors import GantryError
from gantry.runs.folder import Run
from gantry.runs.step_time_limit import step_time_limit

if TYPE_CHECKING:
    from gantry.runs.evaluate import Evaluation


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Score a trained run, or a policy that `gantry export` wrote, on episodes it never saw.

    The policy acts deterministically; the episodes' seeds are from a range that training never uses. With the same seed
    `gantry record` films the same episodes. Examples:

      gantry evaluate runs/CartPoleSwingUp-v0-ppo-seed0

      gantry evaluate runs/CartPoleSwingUp-v0-ppo-seed0 --randomize cart_mass=0.5..2.0 --disturb pushes
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run's folder, as `gantry train` named it, or an exported policy, whose name ends in .onnx."""
    env_id: str | None = None
    """Another environment than that of the training, whose observations and actions are the same."""
    policy: Literal["last", "best"] = "last"
    """The policy as training left it, or the one that scored best while `--evaluate-every` evaluated it."""
    episodes: int = 100
    """Number of episodes, each with a seed of its own."""
    seed: int = 0
    """Block of evaluation seeds."""
    env: tuple[str, ...] = ()
    """Options of the environment in place of those of the training, name=value."""
    randomize: str | None = None
    """Physics in place of those of the training: "cart_mass=0.5..2.0,motor_delay=0..2"."""
    disturb: Literal["pushes", "balls"] | None = None
    """Push the robot at random times, or throw balls at it."""
    reward: str | None = None
    """Weights of the reward's named terms in place of those of the training; scores are of the task's own reward."""
    stochastic: bool = False
    """Let the policy act as it explores, not deterministically."""
    num_envs: int | None = None
    """Environments open at once; by default all for Gantry's tasks, and as many as in training for others."""
    max_steps: int | None = None
    """Steps after which an episode is cut; by default 10,000, or the environment's own limit where that is longer."""
    step_time_limit: float | None = None
    """Seconds that a step of an environment that others made may take; one that hangs ends the command."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry evaluate`."""
    arguments = parse(EvaluateArguments, "evaluate", words)
    exported = arguments.run.suffix == ".onnx"
    with step_time_limit(arguments.step_time_limit):
        agent, env_id, result = _of_file(arguments) if exported else _of_run(arguments)
    table = Table(title=f"{agent} in {env_id}, {counted(result.episodes, 'episode')}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for index, (name, value) in enumerate(result.rows()):
        table.add_row(escape(name), value if index else f"[bold]{value}")
    console(arguments.json).print(table)
    if arguments.json:
        print_json({"run": str(arguments.run), **result.to_json()})


def _of_run(arguments: EvaluateArguments) -> "tuple[str, str, Evaluation]":
    """Return the agent's id, the environment's, and how the agent of a run does there."""
    config = Run(arguments.run).read_config()
    from gantry.agents import load_agent
    from gantry.runs.evaluate import evaluate_agent

    agent = load_agent(Run(arguments.run).policy_folder(arguments.policy))
    changes = env_options(arguments.env, arguments.randomize, arguments.disturb, arguments.reward)
    env_id, options = environment_for(config, agent, arguments.env_id, changes)
    result = evaluate_agent(
        agent,
        env_id,
        arguments.episodes,
        arguments.seed,
        options,
        num_envs=arguments.num_envs,
        max_steps=arguments.max_steps,
        deterministic=not arguments.stochastic,
    )
    return config.agent, env_id, result


def _of_file(arguments: EvaluateArguments) -> "tuple[str, str, Evaluation]":
    """Return the agent's id, the environment's, and how a policy from an ONNX file does there."""
    if arguments.stochastic or arguments.policy != "last":
        raise GantryError("an exported policy acts deterministically and is the only one: no --stochastic, no --policy")
    from gantry.export.onnx_policy import OnnxPolicy, evaluate_policy

    policy = OnnxPolicy(arguments.run)
    env_id, result = evaluate_policy(
        policy,
        arguments.env_id,
        arguments.episodes,
        arguments.seed,
        env_options(arguments.env, arguments.randomize, arguments.disturb, arguments.reward),
        arguments.num_envs,
        arguments.max_steps,
    )
    return policy.agent, env_id, result
