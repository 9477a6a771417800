"""What a benchmark runs: every algorithm in every environment from every seed, each a cell with a folder of its own."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from gantry.benchmark.contenders import contender
from gantry.errors import GantryError, nearest, shown
from gantry.files import config_from_json, config_to_json, read_json, write_json
from gantry.runs.environments import canonical_id, open_env, short_name
from gantry.runs.evaluate import check_episodes
from gantry.runs.seeds import MOST_REPETITIONS
from gantry.runs.train import MOST_STEPS
from gantry.types import Json

FIRST_SEED = 100
"""Training seeds of benchmarks count from here; recipes were tuned on seeds below."""
MOST_CHECKPOINTS = 10_000
"""Evaluations of a training."""
FORMAT = 1
PLAN, CELLS = "benchmark.json", "cells"
"""In a benchmark's folder: the list of its cells, and their folders."""
CELL = "cell.json"
"""What is asked for, in a cell's folder."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How long every algorithm trains, and how every one is evaluated."""

    steps: int | None = None
    """Environment steps to train for; None: not limited."""
    seconds: float | None = None
    """Seconds to train for, not counting evaluation; None: not limited."""
    checkpoints: int = 20
    """How often the deterministic policy is evaluated, evenly over the budget; and once before training."""
    episodes: int = 10
    """Evaluation episodes at each checkpoint, with the same seeds each time."""
    final_episodes: int = 50
    """Test episodes of the policy at the end, on seeds of their own."""
    cores: int = 1
    """Processor cores of each cell; it is pinned to them where the system can do that."""
    recipes: bool = True
    """Whether our agents use their recipes; else their default settings."""

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise GantryError("a benchmark needs a budget: --steps or --seconds, or a --suite")
        for name in ("steps", "seconds", "checkpoints", "episodes", "final_episodes", "cores"):
            value = getattr(self, name)
            if value is not None and not 0 < value < MOST_STEPS:
                raise GantryError(f"{name} must be positive and below 2^63, not {shown(value)}")
        if self.checkpoints > MOST_CHECKPOINTS:
            raise GantryError(f"checkpoints must be at most {MOST_CHECKPOINTS:,}, not {shown(self.checkpoints)}")
        check_episodes(self.episodes)
        check_episodes(self.final_episodes)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training and its evaluation."""

    env_id: str
    """The full id."""
    env_options: Json
    algorithm: str
    """An agent of Gantry, such as `ppo`, or `LIBRARY:ALGORITHM`, such as `sb3:ppo`."""
    seed: int
    protocol: Protocol

    @property
    def name(self) -> str:
        """Where it lies below the benchmark's folder: environment/algorithm/seedN."""
        options = "".join(f"_{name}={value}" for name, value in sorted(self.env_options.items()))
        environment = "".join(each if each.isalnum() or each in "-_=." else "-" for each in short_name(self.env_id))
        options = "".join(each if each.isalnum() or each in "-_=." else "-" for each in options)
        return f"{environment}{options}/{self.algorithm.replace(':', '-')}/seed{self.seed}"

    def to_json(self) -> Json:
        """Return it as JSON values."""
        return config_to_json(self)


@dataclasses.dataclass(frozen=True)
class Suite:
    """Environments and algorithms that are compared under one protocol."""

    environments: tuple[str, ...]
    algorithms: tuple[str, ...]
    seeds: int
    protocol: Protocol
    summary: str
    env_options: Json = dataclasses.field(default_factory=dict)
    """Options of all its environments."""


MUJOCO = ("Swimmer-v5", "Hopper-v5", "Walker2d-v5", "HalfCheetah-v5")
CLASSIC = ("CartPole-v1", "Pendulum-v1", "InvertedPendulum-v5", "Reacher-v5")
OWN = (
    "gantry/CartPoleBalance-v0",
    "gantry/CartPoleSwingUp-v0",
    "gantry/CartPoleSwingUpSparse-v0",
    "gantry/ReachPlanar-v0",
    "gantry/Reach-v0",
    "gantry/ReachGoal-v0",
    "gantry/Vacuum-v0",
    "gantry/VacuumRooms-v0",
    "gantry/VacuumDrive-v0",
)
TRIALS: Json = {
    "trial": 4,
    "physics": {
        "pole_length": "0.5..2",
        "pole_mass": "0.05..0.2",
        "cart_mass": "0.5..2",
        "motor_sign": "-1..1",
    },
}
"""Trials of four episodes in one hidden physics of the cart-pole."""
SUITES: dict[str, Suite] = {
    "quick": Suite(
        ("gantry/CartPoleSwingUp-v0", "gantry/ReachPlanar-v0", "Pendulum-v1"),
        ("ppo", "a2c", "sac", "sb3:ppo"),
        3,
        Protocol(seconds=20.0, checkpoints=10, episodes=8, final_episodes=50),
        "3 environments, 3 agents and SB3's PPO, 3 seeds of 20 s each: 12 minutes on two cores",
    ),
    "standard": Suite(
        (*OWN, *CLASSIC, *MUJOCO),
        ("ppo", "sac", "sb3:ppo", "sb3:sac"),
        5,
        Protocol(seconds=15.0, checkpoints=5, episodes=4, final_episodes=20),
        "our nine worlds and eight of Gymnasium's, PPO and SAC beside SB3's, 5 seeds of 15 s: an hour on two cores",
    ),
    "full": Suite(
        (*OWN, *CLASSIC, *MUJOCO),
        ("ppo", "a2c", "ddpg", "td3", "sac", "dqn", "sb3:ppo", "sb3:a2c", "sb3:ddpg", "sb3:td3", "sb3:sac", "sb3:dqn"),
        5,
        Protocol(seconds=120.0, checkpoints=20, episodes=10, final_episodes=100),
        "the same environments, every agent that has a counterpart in SB3, 5 seeds of 120 s: two days on two cores",
    ),
    "skills": Suite(
        ("gantry/VacuumHouse-v0", "gantry/ReachPlanarOrder-v0"),
        ("ppo", "a2c", "sb3:ppo"),
        5,
        Protocol(steps=400_000, checkpoints=10, episodes=10, final_episodes=50),
        "the tasks that skills are for, learned without them: PPO and A2C beside SB3's PPO, 5 seeds of 400,000 steps",
    ),
    "teams": Suite(
        ("gantry/VacuumTeam-v0", "gantry/ReachTeam-v0"),
        ("ppo", "a2c", "sb3:ppo"),
        5,
        Protocol(seconds=120.0, checkpoints=10, episodes=10, final_episodes=50),
        "robots that learn together, beside SB3's PPO of the whole team, 5 seeds of 120 s: an hour on two cores",
    ),
    "memory": Suite(
        ("gantry.envs.velocity_masked:CartPoleNoVel-v1", "gantry.envs.velocity_masked:PendulumNoVel-v1"),
        ("ppo", "recurrent-ppo", "sb3:recurrent_ppo"),
        5,
        Protocol(steps=100_000, checkpoints=10, episodes=10, final_episodes=50),
        "velocities hidden: PPO, recurrent PPO and sb3-contrib's, 5 seeds of 100,000 steps: hours, most of them theirs",
    ),
    "adaptation": Suite(
        ("gantry/CartPoleBalance-v0", "gantry/CartPoleSwingUp-v0"),
        ("ppo", "recurrent-ppo"),
        5,
        Protocol(steps=1_500_000, checkpoints=10, episodes=32, final_episodes=100),
        "trials in a hidden physics: PPO and recurrent PPO, 5 seeds of 1,500,000 steps: an hour on two cores",
        TRIALS,
    ),
    "transfer": Suite(
        ("gantry.transfer.stand_in:gantry/CartPoleStandIn-v0",),
        ("ppo", "ddpg", "sac", "sb3:sac"),
        5,
        Protocol(steps=256_000, checkpoints=8, episodes=4, final_episodes=20),
        "learning on the stand-in for a real cart-pole: 3 agents and SB3's SAC, 5 seeds of 256,000 steps: hours",
    ),
}


def plan_cells(
    env_ids: Sequence[str], env_options: Json, algorithms: Sequence[str], seeds: int, protocol: Protocol
) -> list[Cell]:
    """Return the cells of a benchmark: seed by seed, so that a first comparison stands early.

    Args:
        env_ids: environments, in any form that `open_env` takes.
        env_options: passed on to each.
        algorithms: see `Cell.algorithm`.
        seeds: trainings of each algorithm in each environment.
        protocol: what all have in common.

    Raises:
        GantryError: an unknown environment or algorithm, a missing package, nothing to run, or names given twice.
    """
    if not env_ids or not algorithms or seeds < 1:
        raise GantryError("a benchmark needs --envs, --agents or --baselines, and at least one seed (or a --suite)")
    if seeds > MOST_REPETITIONS:
        raise GantryError(f"a benchmark takes at most {MOST_REPETITIONS:,} seeds, not {shown(seeds)}")
    environments = [canonical_id(env_id) for env_id in env_ids]
    for algorithm in algorithms:
        contender(algorithm).check()
    for what, names in (("environment", environments), ("algorithm", [*algorithms])):
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise GantryError(f"the {what} {twice[0]} is named twice")
    return [
        Cell(env_id, dict(env_options), algorithm.lower(), FIRST_SEED + seed, protocol)
        for seed, env_id, algorithm in itertools.product(range(seeds), environments, algorithms)
    ]


def without_impossible(cells: Sequence[Cell]) -> tuple[list[Cell], str]:
    """Leave out the cells whose algorithms are not made for their environment's actions.

    Returns:
        The others, and a line that says what was left out; an empty one where nothing was.

    Raises:
        GantryError: an environment cannot be made.
    """
    actions = {}
    for cell in cells:
        if cell.env_id not in actions:
            env = open_env(cell.env_id, None, cell.env_options)
            actions[cell.env_id] = env.action_space
            env.close()
    left_out: dict[str, list[str]] = {}
    for cell in cells:
        names = left_out.setdefault(cell.env_id, [])
        if not contender(cell.algorithm).handles(actions[cell.env_id]) and cell.algorithm not in names:
            names.append(cell.algorithm)
    said = [
        f"{', '.join(names)} in {short_name(env_id)} ({actions[env_id]})" for env_id, names in left_out.items() if names
    ]
    line = f"left out, as they are not made for such actions: {'; '.join(said)}" if said else ""
    return [cell for cell in cells if cell.algorithm not in left_out[cell.env_id]], line


def claim(folder: Path, cells: Sequence[Cell], command: str = "") -> None:
    """Write each cell's `cell.json` where there is none yet, and the list of all with the command that asked for them.

    Raises:
        GantryError: a cell of an earlier benchmark was run under another protocol, or the folder cannot be written.
    """
    for cell in cells:
        path = folder / CELLS / cell.name / CELL
        wanted = {"format": FORMAT, **cell.to_json()}
        if not path.exists():
            write_json(path, wanted)
            continue
        known = read_json(path)
        if known != json.loads(json.dumps(wanted)):
            differing = _differing(known, wanted)
            raise GantryError(
                f"{path.parent} was run with other settings ({differing}); choose another --out, or delete that folder"
            )

    write_json(folder / PLAN, {"command": command, "cells": [cell.name for cell in cells]})


def read_plan(folder: Path) -> tuple[list[Cell], str]:
    """Return the cells of the benchmark that was last run in a folder, and its command.

    Raises:
        GantryError: there is none, or it is damaged.
    """
    if not (folder / PLAN).exists():
        raise GantryError(f"there is no benchmark in {folder}; name its folder with --out")
    content = read_json(folder / PLAN)
    names = content.get("cells")
    if not isinstance(names, list):
        raise GantryError(f"{folder / PLAN} is damaged ('cells' is missing or wrong); run the benchmark again")
    return [read_cell(folder / CELLS / str(name)) for name in names], str(content.get("command"))


def _differing(known: Json, wanted: Json) -> str:
    flat = [{**each, **each.get("protocol", {})} for each in (known, wanted)]
    names = [name for name in flat[1] if name != "protocol" and flat[0].get(name) != flat[1][name]]
    return ", ".join(f"{name} {flat[0].get(name)} instead of {flat[1][name]}" for name in names) or "another format"


def read_cell(folder: Path) -> Cell:
    """Return the cell of a folder.

    Raises:
        GantryError: its `cell.json` is missing or damaged.
    """
    content = read_json(folder / CELL)
    if content.pop("format", None) != FORMAT:
        raise GantryError(f"{folder} was written by another version of Gantry; run the benchmark again")
    return config_from_json(Cell, content, str(folder / CELL))


def suite(name: str) -> Suite:
    """Return a suite.

    Raises:
        GantryError: there is none of that name.
    """
    if name not in SUITES:
        raise GantryError(f"there is no suite {name!r}{nearest(name, SUITES)}")
    return SUITES[name]
