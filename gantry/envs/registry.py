"""The environments that Gantry ships: their ids, what each is in one line, and how Gymnasium makes them.

This module imports neither MuJoCo nor PyTorch, since Gymnasium loads it whenever it is itself imported.
"""

from dataclasses import dataclass, field
from typing import Any

from gantry.errors import GantryError
from gantry.errors import nearest


@dataclass(frozen=True)
class Environment:
    """One registered environment."""

    task: str
    """Where its task class is: `module:Class`."""
    summary: str
    """What the controller has to do, in one line."""
    max_episode_steps: int
    """The time limit (control steps)."""
    options: dict[str, Any] = field(default_factory=dict)
    """The task's settings for this id."""


CART_POLE = "gantry.envs.tasks.cart_pole:CartPole"

ENVIRONMENTS: dict[str, Environment] = {
    "gantry/CartPoleBalance-v0": Environment(
        CART_POLE, "keep the pole of a cart upright, starting near the top", 500, {"swing_up": False}
    ),
    "gantry/CartPoleSwingUp-v0": Environment(
        CART_POLE, "swing the pole of a cart up from hanging, then balance it", 500, {"swing_up": True}
    ),
    "gantry/CartPoleSwingUpSparse-v0": Environment(
        CART_POLE,
        "swing the pole up with a reward only near the top, at the centre of the rail",
        500,
        {"swing_up": True, "sparse": True},
    ),
    "gantry/ReachPlanar-v0": Environment(
        "gantry.envs.tasks.reach_planar:ReachPlanar", "bring a two-link arm's fingertip to a target on a table", 500
    ),
    "gantry/Reach-v0": Environment(
        "gantry.envs.tasks.reach:Reach", "bring a 7-joint arm's fingertip within 2 cm of a target and hold it there", 150
    ),
    "gantry/ReachGoal-v0": Environment(
        "gantry.envs.tasks.reach:ReachGoal", "the same with goals in the observation and a sparse reward, for hindsight", 150
    ),
    "gantry/VacuumRooms-v0": Environment(
        "gantry.envs.tasks.vacuum.rooms:VacuumRooms", "clean an apartment, choosing which room to drive to next", 40
    ),
    "gantry/Vacuum-v0": Environment(
        "gantry.envs.tasks.vacuum.cells:VacuumCells",
        "clean an apartment's floor cell by cell, without bumping into things",
        300,
    ),
    "gantry/VacuumDrive-v0": Environment(
        "gantry.envs.tasks.vacuum.drive:VacuumDrive", "clean an apartment by wheel speeds, range readings and bumpers", 1200
    ),
}


def find_environment(environment_id: str) -> Environment:
    """Return the catalogue's entry for `environment_id`.

    Raises:
        GantryError: no such id; the message names the nearest ones.
    """
    if environment_id not in ENVIRONMENTS:
        raise GantryError(f"unknown environment {environment_id!r}{nearest(environment_id, ENVIRONMENTS)}")
    return ENVIRONMENTS[environment_id]


def full_id(name: str) -> str:
    """Return the id that `name` stands for: a catalogued one, also without its `gantry/`, or any Gymnasium id.

    Raises:
        GantryError: neither Gantry nor Gymnasium knows it; the message names the nearest ones.
    """
    from gymnasium.envs.registration import registry

    for candidate in (f"gantry/{name}", name):
        if candidate in registry:
            return candidate
    if ":" in name:  # Gymnasium imports the module before the colon, which registers its environments
        return name
    known = [*ENVIRONMENTS, *(environment_id.removeprefix("gantry/") for environment_id in registry)]
    hint = nearest(name, known)
    if "did you mean" not in hint:
        hint = "; `gantry list` shows ours, and any installed Gymnasium id works too"
    raise GantryError(f"unknown environment {name!r}{hint}")


def register_environments() -> None:
    """Register every environment with Gymnasium, once."""
    from gymnasium.envs.registration import register, registry

    for environment_id, environment in ENVIRONMENTS.items():
        if environment_id not in registry:
            register(
                environment_id,
                entry_point="gantry.envs.single:make_single",
                vector_entry_point="gantry.envs.simulator:make_simulator",
                max_episode_steps=environment.max_episode_steps,
                order_enforce=False,  # the simulator itself refuses a step before the first reset
                disable_env_checker=True,  # the test suite runs the full checker on every id
                kwargs={"environment_id": environment_id},
            )
