"""Pushes and thrown balls: when, where and how hard, and that they are all that changes."""

import itertools
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from test_simulator import assert_same, assert_same_state, forceful_actions, run

from gantry.cli import main
from gantry.cli.options import env_options
from gantry.envs.capabilities import Disturbable
from gantry.envs.disturbances import (
    BALLS,
    FLIGHT_SECONDS,
    PUSH_SECONDS,
    THROW_DISTANCE,
    WINDOW_SECONDS,
    DisturbanceTarget,
    add_balls,
)
from gantry.envs.registry import find_task, registered_tasks
from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.task import Task
from gantry.envs.tasks.cart_pole import POLE_RADIUS, CartPole
from gantry.envs.tasks.reach import Reach
from gantry.envs.tasks.reach_planar import ReachPlanar
from gantry.envs.tasks.vacuum.cells import VacuumCells
from gantry.envs.tasks.vacuum.drive import VacuumDrive
from gantry.envs.tasks.vacuum.rooms import VacuumRooms
from gantry.errors import GantryError

ID = "gantry/CartPoleSwingUp-v0"
SEED = 31
KINDS = ("pushes", "balls")
DISTURBABLE = [name for name in registered_tasks() if Disturbable in find_task(name).load_class().__mro__]
RADIUS, REACH = CartPole.disturbance_target.ball_radius, CartPole.disturbance_target.reach
WINDOW = 100
"""Control steps of a window of the cart-pole."""
PLACE, MOTION = 7 * np.arange(BALLS), 6 * np.arange(BALLS)
"""Where each ball begins in the balls' part of the positions and of the velocities."""


def test_the_numbers_above_are_the_cart_poles():
    assert make_simulator(ID, 1).control_timestep * WINDOW == pytest.approx(WINDOW_SECONDS)


class Log:
    """What the simulation was before, and after, each block of its steps."""

    def __init__(self, simulator: Simulator) -> None:
        self.positions: list[np.ndarray] = []
        self.velocities: list[np.ndarray] = []
        self.forces: list[np.ndarray] = []
        self.controls: list[np.ndarray] = []
        self.times: list[np.ndarray] = []
        self.ends: list[np.ndarray] = []
        """The velocities after each block."""
        self.simulated: list[np.ndarray] = []
        """The rows (n,) bool that the block was simulated for."""
        kept = {"qpos": self.positions, "qvel": self.velocities, "xfrc_applied": self.forces, "ctrl": self.controls,
                "time": self.times}  # fmt: skip
        batch, step = simulator.batch, simulator.batch.step

        def logged_step(rows, substeps, stage=0):
            for name, into in kept.items():
                into.append(batch.bind(name).copy())
            self.simulated.append(np.ones(simulator.num_envs, bool) if rows is None else rows.copy())
            step(rows, substeps, stage)
            self.ends.append(batch.bind("qvel").copy())

        batch.step = logged_step

    def of_row(self, kept: list[np.ndarray], row: int) -> np.ndarray:
        """What was kept (blocks, ...) of the blocks that a row was simulated for."""
        return np.array([each[row] for each, simulated in zip(kept, self.simulated, strict=True) if simulated[row]])


def logged(kind, n: int, task=CartPole, **settings) -> tuple[Simulator, Log]:
    simulator = Simulator(task(), n, disturb=kind, **settings)
    return simulator, Log(simulator)


class StayingVacuum(VacuumRooms):
    """Its fixed dirt is elsewhere, so that staying for ever, as action 0 does at the start, ends no episode."""

    def __init__(self) -> None:
        super().__init__(start="fixed")


def advance(simulator: Simulator, steps: int, rng: np.random.Generator | None = None) -> None:
    """Step with random actions, or with none."""
    shape = simulator.action_space.shape
    for _ in range(steps):
        if rng is None:
            simulator.step(np.zeros(shape, simulator.action_space.dtype))
        else:
            simulator.step(rng.uniform(-1, 1, shape).astype(np.float32))


def block_seconds(simulator: Simulator) -> float:
    task = simulator.task
    return simulator.model.opt.timestep * (task.motor_decimation or task.decimation)


# Pushes


def pushes(task, n: int, windows: int, seed: int = SEED, **settings) -> np.ndarray:
    """The forces and torques (windows, blocks, n, bodies, 6) of one long episode."""
    simulator, log = logged("pushes", n, task, **settings)
    simulator.reset(seed=seed)
    window = round(WINDOW_SECONDS / block_seconds(simulator))
    while np.sum(log.simulated or [[0]], axis=0).min() < windows * window:
        advance(simulator, 1)
    forces = [log.of_row(log.forces, row)[: windows * window] for row in range(n)]
    return np.stack(forces, axis=1).reshape(windows, window, n, -1, 6)


@pytest.mark.parametrize("task", [CartPole, ReachPlanar, VacuumCells, StayingVacuum, VacuumDrive])
def test_each_window_holds_one_push_of_a_tenth_of_a_second_on_the_target_along_its_axes_within_its_force(task):
    target, n, windows = task.disturbance_target, 32, 2 if task is StayingVacuum else 4
    model = task().load_model()
    forces = pushes(task, n, windows)
    body = model.body(target.body).id
    assert not np.delete(forces, body, axis=3).any(), "on no other body"
    assert not forces[..., 3:].any(), "no torques"
    forces = forces[..., body, :3]
    assert not np.delete(forces, list(target.axes), axis=3).any(), "along the axes only"
    strength = np.linalg.norm(forces, axis=3)
    assert strength.max() <= target.force * (1 + 1e-12)
    long = round(PUSH_SECONDS / (model.opt.timestep * (task.motor_decimation or task.decimation)))
    assert long * model.opt.timestep * (task.motor_decimation or task.decimation) == pytest.approx(
        PUSH_SECONDS, abs=0.021
    )
    starts = []
    for window, row in itertools.product(range(windows), range(n)):
        pushed = np.flatnonzero(strength[window, :, row])
        assert len(pushed) == long
        assert pushed[-1] - pushed[0] == long - 1
        assert len(np.unique(forces[window, pushed, row], axis=0)) == 1, "a constant force"
        starts.append(pushed[0])
    assert min(starts) < 0.1 * forces.shape[1]
    assert max(starts) > 0.8 * forces.shape[1]
    peak = strength.max(axis=1)
    assert 0.3 * target.force <= peak.min() < 0.35 * target.force
    assert 0.95 * target.force < peak.max()
    assert len(np.unique(peak)) == peak.size, "differs between windows and rows"
    for axis in target.axes:
        pushed = forces[..., axis][strength > 0]
        assert 0.35 < (pushed > 0).mean() < 0.65, "to either side"


def test_pushes_differ_between_episodes_and_are_the_same_for_the_same_seed():
    simulator, log = logged("pushes", 8, max_episode_steps=WINDOW)
    simulator.reset(seed=SEED)
    advance(simulator, 2 * WINDOW)
    first, second = np.array(log.forces).reshape(2, WINDOW, 8, -1)
    assert (np.abs(first).max(axis=(0, 2)) != np.abs(second).max(axis=(0, 2))).all()
    assert np.array_equal(pushes(CartPole, 8, 1)[0].reshape(WINDOW, 8, -1), first)
    assert not np.array_equal(pushes(CartPole, 8, 1, seed=SEED + 50)[0].reshape(WINDOW, 8, -1), first)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_a_serial_loop_under_the_same_forces_equals_the_pushed_simulation_bit_for_bit(mode):
    n, steps = 6, 250
    simulator, log = logged("pushes", n, max_episode_steps=60, autoreset_mode=mode)
    actions = forceful_actions(n, steps)
    batch = run(simulator, actions, SEED)
    forces = np.array(log.forces)
    model = CartPole().load_model()
    assert model.nbody == simulator.model.nbody
    for row in range(n):
        data, waiting = mujoco.MjData(model), False
        data.qpos[:], data.qvel[:] = np.split(batch.starts[0, row], 2)
        for t in range(steps):
            if not waiting:
                data.ctrl[0] = np.clip(actions[t, row, 0], -1, 1)
                data.xfrc_applied[:] = forces[t, row]
                mujoco.mj_step(model, data, 2)
                assert np.array_equal(np.float32([data.qpos[0], *data.qvel]), batch.final[t, row, [0, 3, 4]])
            ended = bool(batch.truncations[t, row])
            if waiting or (ended and mode is AutoresetMode.SAME_STEP):
                mujoco.mj_resetData(model, data)
                data.qpos[:], data.qvel[:] = np.split(batch.starts[t + 1, row], 2)
            waiting = ended and mode is AutoresetMode.NEXT_STEP
    undisturbed = run(make_simulator(ID, n, max_episode_steps=60, autoreset_mode=mode), actions, SEED)
    assert not np.array_equal(batch.final, undisturbed.final)
    assert np.array_equal(batch.truncations, undisturbed.truncations)


def test_a_reset_clears_the_forces_of_the_rows_that_it_resets():
    simulator, _ = logged("pushes", 64)
    simulator.reset(seed=SEED)
    forces = simulator.batch.bind("xfrc_applied")
    pushed = np.zeros(64, bool)
    while pushed.sum() < 2:
        advance(simulator, 1)
        pushed = forces.any(axis=(1, 2))
    mask = np.arange(64) == np.flatnonzero(pushed)[0]
    simulator.reset(options={"reset_mask": mask})
    assert np.array_equal(forces.any(axis=(1, 2)), pushed & ~mask)
    simulator.reset()
    assert not forces.any()


# Balls in flight


def throws(log: Log, nv: int) -> list[tuple[int, int, int]]:
    """When, in which row, and which ball: one that moves otherwise than at the last step's end."""
    found = []
    for t, begins in enumerate(log.velocities):
        ends = log.ends[t - 1] if t else np.zeros_like(begins)
        for ball in range(BALLS):
            own = slice(nv + MOTION[ball], nv + MOTION[ball] + 3)
            thrown = begins[:, own].any(axis=1) & (begins[:, own] != ends[:, own]).any(axis=1)
            found += [(t, int(row), ball) for row in np.flatnonzero(thrown)]
    return found


def aimed_at(task, positions: np.ndarray) -> np.ndarray:
    """Where the target is, by hand, for the positions (nq,) of the robot."""
    if task is CartPole:
        x, angle = positions[:2]
        return np.array([x + 0.7 * np.sin(angle), 0.0, 1.0 + 0.7 * np.cos(angle)])
    return np.array([0.12 * np.cos(positions[0]), 0.12 * np.sin(positions[0]), 0.01])


@pytest.mark.parametrize(
    ("tilt", "task"),
    [
        (25.0, CartPole),
        (None, ReachPlanar),
        pytest.param(None, CartPole, marks=pytest.mark.slow),
        pytest.param(25.0, ReachPlanar, marks=pytest.mark.slow),
    ],
)
def test_every_throw_starts_at_its_distance_on_the_parabola_that_meets_the_target_where_it_is_at_that_moment(
    task, tilt
):
    target, n, limit = task.disturbance_target, 64, WINDOW + 5 if task is CartPole else 55
    physics = None if tilt is None else {"gravity_tilt": tilt}
    simulator, log = logged("balls", n, task, max_episode_steps=limit, physics=physics)
    simulator.reset(seed=500)  # some of whose rows throw at once
    gravity = []
    rng = np.random.default_rng(0)
    for _ in range(3 * limit):
        gravity.append(np.broadcast_to([0, 0, -9.81], (n, 3)) if tilt is None else np.array(tilted(simulator)))
        advance(simulator, 1, rng)
    nq, nv = simulator.state.qpos.shape[1], simulator.state.qvel.shape[1]
    found = throws(log, nv)
    assert len(found) >= 3 * n
    assert any(t == 0 for t, *_ in found), "some in the very first step"
    assert any(t in (limit, 2 * limit) for t, *_ in found), "and some in the first step after an autoreset"
    # The integrator's steps lie on the parabola of a velocity that is half a step of gravity further.
    half_step = 0.5 * simulator.model.opt.timestep
    axes = set()
    for t, row, ball in found:
        start = log.positions[t][row, nq + PLACE[ball] :][:3]
        velocity = log.velocities[t][row, nv + MOTION[ball] :][:3] + half_step * gravity[t][row]
        aim = aimed_at(task, log.positions[t][row])
        meets = start + velocity * FLIGHT_SECONDS + 0.5 * gravity[t][row] * FLIGHT_SECONDS**2
        np.testing.assert_allclose(meets, aim, atol=1e-9)
        away = start - aim
        assert np.hypot(*away[:2]) == pytest.approx(THROW_DISTANCE * target.reach + 2 * target.ball_radius)
        assert not away[[axis for axis in (0, 1) if axis not in target.axes]].any()
        axes.add(tuple(np.sign(away[:2]).round()))
    assert len(axes) == 2 ** len(target.axes), "from all sides"


def tilted(simulator: Simulator) -> list[np.ndarray]:
    physics = simulator.physics_infos()["physics"]
    tilt, towards = np.radians(physics["gravity_tilt"]), np.radians(physics["gravity_direction"])
    return [
        9.81 * np.array([np.sin(a) * np.cos(b), np.sin(a) * np.sin(b), -np.cos(a)])
        for a, b in zip(tilt, towards, strict=True)
    ]


def test_a_window_holds_one_throw_of_the_balls_in_turn():
    simulator, log = logged("balls", 32)
    simulator.reset(seed=SEED)
    advance(simulator, 4 * WINDOW)
    found = throws(log, 2)
    assert sorted((row, t // WINDOW) for t, row, _ in found) == list(itertools.product(range(32), range(4)))
    assert all(ball == (t // WINDOW) % BALLS for t, _, ball in found)
    assert len({t for t, *_ in found}) > 40, "at moments of their own"


def hanging(n: int, **settings) -> tuple[Simulator, Log]:
    """Cart-poles that hang motionless, where they stay."""
    simulator, log = logged("balls", n, **settings)
    simulator.reset(seed=SEED)
    simulator.state.qpos[:] = 0.0, np.pi
    simulator.state.qvel[:] = 0.0
    return simulator, log


def test_a_ball_flies_along_the_closed_form_parabola_meets_a_motionless_pole_and_carries_it_along():
    n, pole, cart, ball_mass = 48, 0.1, 1.0, CartPole.disturbance_target.ball_mass
    simulator, log = hanging(n)
    advance(simulator, WINDOW + 40)
    first = [each for each in throws(log, 2) if each[0] < WINDOW]
    assert len(first) == n
    aim = np.array([0.0, 0.0, 0.3])
    sides = set()
    for t, row, _ in first:
        place = np.array([each[row, 2:5] for each in log.positions[t:]])
        speed = np.array([each[row, 2:5] for each in log.velocities[t:]])
        robot = np.array([np.concatenate([each[row, :2], log.velocities[t + k][row, :2]])
                          for k, each in enumerate(log.positions[t:])])  # fmt: skip
        side = np.sign(place[0, 0])
        sides.add(side)
        touched = np.flatnonzero(np.abs(robot[:, 2:]).max(axis=1) > 1e-6)[0]
        seconds = 0.02 * np.arange(len(place))
        # It hits when its surface meets the pole's, shortly before its middle would be on the axis.
        gap = RADIUS + POLE_RADIUS
        expected = FLIGHT_SECONDS * (1 - gap / (1.2 * REACH + 2 * RADIUS))
        assert seconds[touched - 1] - 0.02 <= expected <= seconds[touched] + 0.02
        start = np.array([side * (1.2 * REACH + 2 * RADIUS), 0.0, aim[2] + 0.1 * REACH])
        free = seconds[:touched, None]
        pull = np.array([0.0, 0.0, -9.81])
        launch = (aim - start) / FLIGHT_SECONDS - 0.5 * pull * FLIGHT_SECONDS
        np.testing.assert_allclose(place[:touched], start + launch * free + 0.5 * pull * free**2, atol=1e-9)
        assert np.linalg.norm(place - aim, axis=1).min() < gap + 0.08  # what it flies in a control step
        # The pole's aimed-at point goes the way the ball flew, and the rail lets all momentum along x be kept.
        x_speed, turning = robot[touched + 1, 2:]
        assert np.sign(x_speed - 0.7 * turning) == -side
        assert abs(speed[touched + 1, 0]) < abs(speed[0, 0])
        angle = robot[:, 1]
        total = cart * robot[:, 2] + pole * (robot[:, 2] + 0.5 * np.cos(angle) * robot[:, 3]) + ball_mass * speed[:, 0]
        airborne = place[:, 2] > -0.05 + RADIUS + 0.03
        assert airborne[: touched + 3].all()
        np.testing.assert_allclose(total[: touched + 3], total[0], rtol=5e-3)
    assert sides == {-1.0, 1.0}


def gaps(positions: np.ndarray) -> np.ndarray:
    """The least distance (n,) between the surfaces of a cart-pole and of its balls, for positions (n, 2 + 21)."""
    x, angle = positions[:, 0], positions[:, 1]
    axis = np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], axis=1)
    foot = np.stack([x, np.zeros_like(x), np.ones_like(x)], axis=1)
    least = np.full(len(x), np.inf)
    for ball in range(BALLS):
        place = positions[:, 2 + PLACE[ball] : 5 + PLACE[ball]]
        along = np.clip(((place - foot) * axis).sum(1), 0.0, 1.0)
        pole = np.linalg.norm(place - foot - along[:, None] * axis, axis=1) - POLE_RADIUS
        outside = np.maximum(np.abs(place - foot) - [0.2, 0.15, 0.1], 0.0)
        least = np.minimum(least, np.minimum(pole, np.linalg.norm(outside, axis=1)) - RADIUS)
    return least


def test_until_a_ball_touches_it_the_robot_moves_bit_for_bit_as_if_there_were_none():
    n, steps = 64, 300
    simulator, log = logged("balls", n, max_episode_steps=None)
    undisturbed = make_simulator(ID, n, max_episode_steps=None)
    actions = forceful_actions(n, steps) * np.where(np.arange(n) < n // 2, 1.0, 0.2)[:, None]
    one, other = run(simulator, actions, SEED), run(undisturbed, actions, SEED)
    near = np.array([gaps(positions) for positions in log.positions]) < 0.3  # what both may move in a control step
    untouched = ~np.logical_or.accumulate(near, axis=0)
    at_stops = np.logical_or.accumulate(np.abs(other.starts[:-1, :, 0]) > 1.75, axis=0)
    flying = np.array([np.abs(each[:, 2:]).max(axis=1) > 2.0 for each in log.velocities])
    assert (untouched & ~at_stops & flying).sum() > 200, "balls were in the air meanwhile"
    difference = np.abs(one.starts[:-1] - other.starts[:-1]).max(axis=2)
    assert not difference[untouched & ~at_stops].any()
    assert (one.rewards == other.rewards)[:-1][(untouched & ~at_stops)[1:]].all()
    assert not difference[0].any()
    assert difference[-1].max() > 0.1, "a ball that touches makes a difference"

    # The rail's stops are solved for together with the balls on the floor: there, steps may differ by rounding.
    there = untouched & at_stops
    assert there.sum() > 200
    for row in np.flatnonzero(there.any(axis=0)):
        differs = np.flatnonzero(difference[:, row])
        if len(differs) and there[differs[0], row]:
            assert difference[differs[0], row] < 1e-12


def test_a_serial_loop_with_the_same_throws_equals_the_simulation_with_balls_bit_for_bit():
    n, steps = 5, 260
    simulator, log = logged("balls", n, max_episode_steps=None, physics={"mass": np.linspace(0.5, 2, n)})
    actions = forceful_actions(n, steps)
    batch = run(simulator, actions, SEED)
    thrown = {(t, row): ball for t, row, ball in throws(log, 2)}
    for row in range(n):
        model = simulator.batch.get_model(row)
        data = mujoco.MjData(model)
        data.qpos[:2], data.qvel[:2] = np.split(batch.starts[0, row], 2)
        for t in range(steps):
            if (t, row) in thrown:
                place, motion = 2 + PLACE[thrown[t, row]], 2 + MOTION[thrown[t, row]]
                data.qpos[place : place + 7] = log.positions[t][row, place : place + 7]
                data.qvel[motion : motion + 6] = log.velocities[t][row, motion : motion + 6]
            assert np.array_equal(data.qpos, log.positions[t][row])
            assert np.array_equal(data.qvel, log.velocities[t][row])
            data.ctrl[0] = np.clip(actions[t, row, 0], -1, 1)
            mujoco.mj_step(model, data, 2)


# What balls touch, and what they leave as it is


@pytest.mark.parametrize("task", [CartPole, ReachPlanar, Reach, VacuumCells, VacuumDrive])
def test_adding_balls_changes_nothing_of_the_robots_own_model(task):
    plain = task().load_model()
    simulator = Simulator(task(), 2, disturb="balls")
    model = simulator.model
    added = [model.body(index).name for index in range(plain.nbody, model.nbody)]
    assert [name for name in added if name not in ("shell", "ground")] == [f"ball{ball}" for ball in range(BALLS)]
    assert (model.nq, model.nv, model.nu) == (plain.nq + 7 * BALLS, plain.nv + 6 * BALLS, plain.nu)
    for count, kind in ((plain.nbody, "body"), (plain.njnt, "joint"), (plain.ngeom, "geom"), (plain.nu, "actuator")):
        for index in range(count):
            assert getattr(model, kind)(index).name == getattr(plain, kind)(index).name
    for field in (
        "body_mass", "body_inertia", "body_ipos", "body_pos", "body_subtreemass", "jnt_range",
        "dof_damping", "dof_armature", "geom_size", "geom_friction", "actuator_gear", "qpos0", "dof_invweight0",
    ):  # fmt: skip
        own = getattr(plain, field)
        first = 1 if field == "body_subtreemass" else 0  # the world's subtree now holds balls too
        assert np.array_equal(getattr(model, field)[first : len(own)], own[first:]), field
    weightless = plain.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_GRAVITY
    for body in range(1, plain.nbody):
        assert model.body_gravcomp[body] == (1.0 if weightless else plain.body_gravcomp[body])
    assert not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_GRAVITY
    for ball in range(BALLS):
        assert model.body_gravcomp[model.body(f"ball{ball}").id] == 0.0
        assert model.body(f"ball{ball}").mass[0] == pytest.approx(task.disturbance_target.ball_mass)


def contacts(model: mujoco.MjModel, data: mujoco.MjData) -> set[frozenset[str]]:
    """The names of the geoms that touch."""
    mujoco.mj_forward(model, data)
    return {frozenset(model.geom(geom).name for geom in contact.geom) for contact in data.contact}


def test_balls_touch_the_robot_and_the_floor_but_neither_rails_nor_each_other():
    model = make_simulator(ID, 1, disturb="balls").model
    data = mujoco.MjData(model)
    assert contacts(model, data) == set(), "balls wait clear of everything"
    places = {
        (0.25, 0.0, 1.0): {"cart"},
        (0.0, 0.08, 1.9): {"pole"},
        (1.0, 0.07, 1.0): set(),  # in a rail
        (1.0, 1.0, -0.02): {"floor"},
        (1.0, 1.0, 1.0): set(),
    }
    for place, expected in places.items():
        data.qpos[2:5] = place
        assert contacts(model, data) == {frozenset({"ball0", name}) for name in expected}
    data.qpos[2 + PLACE[1] : 5 + PLACE[1]] = 1.0, 1.0, 1.01  # in the other ball
    assert contacts(model, data) == set()
    data.qpos[0], data.qpos[1] = 1.7, np.pi  # cart and pole in rails, as ever
    assert contacts(model, data) == set()


def test_balls_fall_past_rails_and_through_each_other_and_come_to_rest_on_the_floor():
    model = make_simulator(ID, 1, disturb="balls").model
    data = mujoco.MjData(model)
    data.qpos[1] = np.pi
    for ball, height in enumerate((1.2, 1.5, 0.4)):
        data.qpos[2 + PLACE[ball] : 5 + PLACE[ball]] = 1.2, 0.07, height
    mujoco.mj_step(model, data, 600)
    for ball in range(BALLS):
        place = data.qpos[2 + PLACE[ball] : 5 + PLACE[ball]]
        np.testing.assert_allclose(place, [1.2, 0.07, -0.05 + RADIUS], atol=1e-3)
    assert np.abs(data.qvel).max() < 1e-3


def test_in_a_model_of_contacts_balls_add_theirs_and_take_none_away():
    specification = mujoco.MjSpec.from_string("""
        <mujoco><worldbody>
          <geom name="floor" type="plane" size="5 5 1"/>
          <geom name="wall" type="box" size="0.1 1 1" pos="2 0 1"/>
          <geom name="picture" type="sphere" size="0.3" pos="0 3 1" contype="0" conaffinity="0"/>
          <body name="box" pos="1.85 0 0.09"><freejoint/><geom name="box" type="box" size="0.1 0.1 0.1"/>
            <geom name="lamp" type="sphere" size="0.05" pos="0 0 0.4" contype="0" conaffinity="0"/></body>
        </worldbody></mujoco>""")
    before = contacts(plain := specification.compile(), mujoco.MjData(plain))
    assert before == {frozenset({"box", "floor"}), frozenset({"box", "wall"})}
    add_balls(specification, DisturbanceTarget("box", force=1.0, ball_mass=0.1, ball_radius=0.05))
    model = specification.compile()
    data = mujoco.MjData(model)
    assert contacts(model, data) - {frozenset({f"ball{ball}", "floor"}) for ball in range(BALLS)} == before
    for place, touched in (
        ((1.85, 0.0, 0.23), {"box"}),
        ((2.0, 0.5, 1.0), set()),
        ((0.0, 3.0, 1.0), set()),
        ((1.85, 0.0, 0.55), set()),  # the lamp is there to be seen only
        ((0.0, 0.0, 0.04), {"floor"}),
    ):
        data.qpos[7:10] = place
        own = {pair for pair in contacts(model, data) if "ball0" in pair}
        assert own == {frozenset({"ball0", name}) for name in touched}


def leaves(observations) -> list[np.ndarray]:
    return [*observations.values()] if isinstance(observations, dict) else [observations]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("environment", DISTURBABLE)
def test_spaces_observations_and_rewards_are_of_the_same_shapes_as_without(kind, environment):
    plain, disturbed = make_simulator(environment, 5), make_simulator(environment, 5, disturb=kind)
    assert disturbed.observation_space == plain.observation_space
    assert disturbed.action_space == plain.action_space
    expected, observations = plain.reset(seed=SEED)[0], disturbed.reset(seed=SEED)[0]
    for one, other in zip(leaves(observations), leaves(expected), strict=True):
        assert np.array_equal(one, other), "episodes begin as without"
    actions = np.ones(plain.action_space.shape, plain.action_space.dtype)
    for one, other in zip(plain.step(actions)[:4], disturbed.step(actions)[:4], strict=True):
        for part, same in zip(leaves(one), leaves(other), strict=True):
            assert (part.shape, part.dtype) == (same.shape, same.dtype)
    assert plain.features.shape == disturbed.features.shape


# Rows, and saving


@pytest.mark.parametrize(
    ("n", "kind"),
    [
        (1, "pushes"),
        (7, "balls"),
        pytest.param(1, "balls", marks=pytest.mark.slow),
        pytest.param(7, "pushes", marks=pytest.mark.slow),
    ],
)
def test_what_disturbs_a_row_depends_on_its_seed_and_episode_alone_whatever_their_number(kind, n):
    actions, limit = forceful_actions(40, 250), 110
    expected = run(make_simulator(ID, 40, max_episode_steps=limit, num_threads=2, disturb=kind), actions, SEED)
    for first in (0, 33):
        rows = slice(first, first + n)
        batch = run(make_simulator(ID, n, max_episode_steps=limit, disturb=kind), actions[:, rows], SEED + first)
        for name in ("observations", "final", "rewards", "truncations", "starts"):
            assert np.array_equal(getattr(batch, name), getattr(expected, name)[:, rows]), name

    single = gymnasium.make(ID, max_episode_steps=limit, disturb=kind)
    observation, _ = single.reset(seed=SEED + 33)
    for t in range(250):
        assert np.array_equal(observation, expected.observations[t, 33])
        observation, reward, _, truncated, _ = single.step(actions[t, 33])
        assert reward == expected.rewards[t, 33]
        if truncated:
            observation, _ = single.reset()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        (AutoresetMode.SAME_STEP, "pushes"),
        (AutoresetMode.NEXT_STEP, "balls"),
        pytest.param(AutoresetMode.SAME_STEP, "balls", marks=pytest.mark.slow),
        pytest.param(AutoresetMode.NEXT_STEP, "pushes", marks=pytest.mark.slow),
    ],
)
def test_a_disturbed_simulation_saved_anywhere_continues_bit_for_bit_here_and_in_a_fresh_simulator(kind, mode):
    n, limit = 24, 50
    physics = {"mass": "0.5..2", "gravity_tilt": "0..10", "motor_delay": "0..2", "sensor_noise": 0.01}

    def build() -> Simulator:
        return make_simulator(ID, n, max_episode_steps=limit, autoreset_mode=mode, disturb=kind, physics=physics)

    simulator, actions = build(), forceful_actions(n, 80)
    simulator.reset(seed=SEED)
    states, moments = {}, (0, 9, 23, 49, 50, 51)
    for t in range(52):
        if t in moments:
            states[t] = simulator.get_state()
        simulator.step(actions[t])
    for t in moments:
        simulator.set_state(states[t])
        through = run(simulator, actions[t : t + 28])
        end = simulator.get_state()
        fresh = build()
        fresh.set_state(states[t])
        assert_same(run(fresh, actions[t : t + 28]), through)
        assert_same_state(fresh.get_state(), end)


# What is refused, and other tools


@pytest.mark.parametrize("kind", KINDS)
def test_task_that_is_not_disturbable_is_refused_in_one_line(kind):
    class Untouchable(Task):
        model_file = "cart_pole.xml"
        observation_space = action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
        reset = control = features = reward = None

    with pytest.raises(GantryError, match="Untouchable has nothing that can be disturbed") as caught:
        Simulator(Untouchable(), 2, disturb=kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["ball", "", 5, True, ["balls"], {}])
def test_an_unknown_kind_is_refused_in_one_line(kind):
    with pytest.raises(GantryError, match="disturb must be one of pushes, balls, not") as caught:
        make_simulator(ID, 2, disturb=kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("environment", [ID, "gantry/ReachGoal-v0", "gantry/Vacuum-v0"])
def test_the_checkers_pass_under_disturbances_with_warnings_as_errors(kind, environment):
    from stable_baselines3.common.env_checker import check_env as check_sb3

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(environment, disturb=kind).unwrapped, skip_render_check=True)
        check_sb3(gymnasium.make(environment, disturb=kind).unwrapped, warn=True)


@pytest.mark.parametrize("kind", KINDS)
def test_disturbances_asked_for_on_the_command_line_reach_the_environment(kind, tmp_path, capsys):
    assert env_options((), None, kind) == {"disturb": kind}
    folder = tmp_path / "run"
    words = ["train", ID, "--disturb", kind, "--steps", "256", "--num-envs", "8", "--out", str(folder)]
    assert main(words) == 0
    assert f'"disturb": "{kind}"' in (folder / "config.json").read_text()
    assert main(["evaluate", str(folder), "--episodes", "1"]) == 0
    capsys.readouterr()
