"""The tasks that Gantry ships, a file each, and their registration."""

from gantry.envs.registry import register_task

CART_POLE = "gantry.envs.tasks.cart_pole:CartPole"
VACUUM = "gantry.envs.tasks.vacuum"


def register_shipped_tasks() -> None:
    """Register Gantry's own tasks; importing `gantry` does it."""
    register_task(
        "gantry/CartPoleBalance-v0",
        CART_POLE,
        max_episode_steps=500,
        summary="keep the pole of a cart upright, starting near the top",
        options={"swing_up": False},
    )
    register_task(
        "gantry/CartPoleSwingUp-v0",
        CART_POLE,
        max_episode_steps=500,
        summary="swing the pole of a cart up from hanging, then balance it",
        options={"swing_up": True},
    )
    register_task(
        "gantry/CartPoleSwingUpSparse-v0",
        CART_POLE,
        max_episode_steps=500,
        summary="swing the pole up with a reward only near the top, at the center of the rail",
        options={"swing_up": True, "sparse": True},
    )
    register_task(
        "gantry/ReachPlanar-v0",
        "gantry.envs.tasks.reach_planar:ReachPlanar",
        max_episode_steps=500,
        summary="bring a two-link arm's fingertip to a target on a table",
    )
    register_task(
        "gantry/ReachPlanarOrder-v0",
        "gantry.envs.tasks.reach_planar_order:ReachPlanarOrder",
        max_episode_steps=500,
        summary="touch three targets with a two-link arm, in the order that the reward tells",
    )
    register_task(
        "gantry/Reach-v0",
        "gantry.envs.tasks.reach:Reach",
        max_episode_steps=150,
        summary="bring a 7-joint arm's fingertip within 2 cm of a target and hold it there",
    )
    register_task(
        "gantry/ReachGoal-v0",
        "gantry.envs.tasks.reach:ReachGoal",
        max_episode_steps=150,
        summary="the same with goals in the observation and a sparse reward, for hindsight",
    )
    register_task(
        "gantry/VacuumRooms-v0",
        f"{VACUUM}.rooms:VacuumRooms",
        max_episode_steps=40,
        summary="clean an apartment, choosing which room to drive to next",
    )
    register_task(
        "gantry/Vacuum-v0",
        f"{VACUUM}.cells:VacuumCells",
        max_episode_steps=300,
        summary="clean an apartment's floor cell by cell, without bumping into things",
    )
    register_task(
        "gantry/VacuumHouse-v0",
        f"{VACUUM}.house:VacuumHouse",
        max_episode_steps=600,
        summary="clean a house of eight rooms cell by cell, with a map of the way to each room's dirt",
    )
    register_task(
        "gantry/VacuumDrive-v0",
        f"{VACUUM}.drive:VacuumDrive",
        max_episode_steps=1200,
        summary="clean an apartment by wheel speeds, range readings and bumpers",
    )
    register_task(
        "gantry/VacuumTeam-v0",
        f"{VACUUM}.team:VacuumTeam",
        max_episode_steps=400,
        summary="clean an apartment of eight rooms together, as a team of robots",
    )
    register_task(
        "gantry/ReachTeam-v0",
        "gantry.envs.tasks.reach_team:ReachTeam",
        max_episode_steps=200,
        summary="bring the fingertips of two arms to a target each, in space that they share",
    )
