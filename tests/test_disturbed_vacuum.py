"""Pushes and thrown balls on the vacuums: real forces within long control steps, and walls that hold."""

import mujoco
import numpy as np
import pytest
from test_disturbances import BALLS, KINDS, MOTION, PLACE, Log
from test_vacuum import CELLS, DRIVE, ROOMS, actions_for
from test_vacuum_cells import towards_dirt

from gantry.envs.disturbances import FLIGHT_SECONDS, PUSH_SECONDS
from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.tasks.vacuum.cells import BUMPED
from gantry.envs.tasks.vacuum.drive import MAX_RANGE, RANGE
from gantry.envs.tasks.vacuum.robot import ROBOT_HEIGHT, ROBOT_RADIUS, Vacuum

TARGET = Vacuum.disturbance_target
MASS = 3.5
"""Of the robot (kg)."""
STRONGEST_WHEELS = 30.0
"""What the wheels can push, forwards or sideways (N)."""

every_vacuum = pytest.mark.parametrize("environment", [CELLS, ROOMS, DRIVE])
every_kind = pytest.mark.parametrize("kind", KINDS)


def disturbed(environment: str, kind: str, n: int, seed: int = 0, **settings) -> tuple[Simulator, Log]:
    simulator = make_simulator(environment, n, disturb=kind, **{"max_episode_steps": None, **settings})
    log = Log(simulator)
    simulator.reset(seed=seed)
    return simulator, log


@every_kind
@every_vacuum
def test_disturbed_physics_equals_serial_loop_bit_for_bit(environment, kind):
    n, steps = 6, {CELLS: 16, ROOMS: 5, DRIVE: 50}[environment]
    options = {"start": "fixed"} if environment == ROOMS else {}
    simulator, log = disturbed(environment, kind, n, seed=4, num_threads=2, **options)
    for action in actions_for(simulator, steps, seed=1):
        if not simulator._some_ended:
            simulator.transition(action)
    task, pushed, thrown, contacts = simulator.task, 0, 0, 0
    for row in range(n):
        data = mujoco.MjData(simulator.model)
        positions, velocities = log.of_row(log.positions, row), log.of_row(log.velocities, row)
        forces, controls, ends = (log.of_row(kept, row) for kept in (log.forces, log.controls, log.ends))
        data.qpos[:], data.qvel[:] = positions[0], velocities[0]
        for t in range(len(positions)):
            assert np.array_equal(data.qpos[:3], positions[t, :3])
            assert np.array_equal(data.qvel[:3], velocities[t, :3])
            if kind == "balls":
                for ball in range(BALLS):
                    place, motion = slice(3 + PLACE[ball], 10 + PLACE[ball]), slice(3 + MOTION[ball], 9 + MOTION[ball])
                    thrown += not np.array_equal(data.qvel[motion], velocities[t, motion])
                    data.qpos[place], data.qvel[motion] = positions[t, place], velocities[t, motion]
            assert np.array_equal(data.qpos, positions[t])
            data.ctrl[:], data.xfrc_applied[:] = controls[t], forces[t]
            pushed += forces[t].any()
            for _ in range(task.motor_decimation):
                mujoco.mj_step(simulator.model, data)
                contacts += data.ncon
            assert np.array_equal(data.qvel, ends[t])
    assert (pushed if kind == "pushes" else thrown) >= n
    assert contacts > 0 or kind == "pushes"


@every_vacuum
def test_long_control_step_has_one_push_per_window(environment):
    simulator, log = disturbed(environment, "pushes", 16)
    for action in actions_for(simulator, {CELLS: 12, ROOMS: 6, DRIVE: 90}[environment]):
        simulator.transition(action)
        if simulator._some_ended:
            break
    body = simulator.model.body(TARGET.body).id
    for row in range(16):
        windows = simulator.state.time[row] / 2.0
        pushed = log.of_row(log.forces, row)[:, body, :3].any(axis=1)
        begun = np.count_nonzero(np.diff(np.concatenate([[False], pushed]).astype(int)) == 1)
        assert np.floor(windows) - 1 <= begun <= np.ceil(windows) + 1


def speed_after_push(force: float, gain: float) -> float:
    """How fast (m/s) a push of five steps leaves a robot whose wheels hold it by `gain` (N for each m/s), if they can.

    Each step is the implicit one of the integrator: what the wheels do follows the speed at the step's end, to first
    order, except where they do all they can.
    """
    speed, step = 0.0, 0.02
    for _ in range(5):
        held = min(gain * speed, STRONGEST_WHEELS)
        speed += step * (force - held) / (MASS + (step * gain if gain * speed < STRONGEST_WHEELS else 0.0))
    return speed


def test_push_displaces_robot_by_newtons_law():
    n = 48
    simulator, log = disturbed(DRIVE, "pushes", n)
    simulator.task.set_pose(simulator.state, np.arange(n), simulator.task.plan.numbers[6, 4], np.zeros(n))
    body = simulator.model.body(TARGET.body).id
    for _ in range(21):  # a window of 2 s holds one push
        simulator.transition(np.zeros((n, 2), np.float32))
    for row in range(n):
        force = log.of_row(log.forces, row)[:, body, :2]
        first = np.flatnonzero(force.any(axis=1))[0]
        x, y = log.of_row(log.ends, row)[first + 4, :2]  # the fifth step of 20 ms is the push's last
        along, across = force[first]
        # Two wheels of 80 N for each m/s along the heading, a grip of 200 N for each m/s across it.
        assert abs(x) == pytest.approx(speed_after_push(abs(along), 160.0), rel=1e-6)
        assert abs(y) == pytest.approx(speed_after_push(abs(across), 200.0), rel=1e-6)
        assert x * along >= 0
        assert y * across >= 0


def clearance(simulator: Simulator) -> np.ndarray:
    """The least distance (n,) from the robots' middles to walls and furniture, which are boxes along the axes."""
    model, least = simulator.model, np.full(simulator.num_envs, np.inf)
    for index in range(model.ngeom):
        geom = model.geom(index)
        if geom.type == mujoco.mjtGeom.mjGEOM_BOX:
            outside = np.maximum(np.abs(simulator.state.qpos[:, :2] - geom.pos[:2]) - geom.size[:2], 0.0)
            least = np.minimum(least, np.linalg.norm(outside, axis=1))
    return least


class Watch:
    """Notes the least clearance and the highest speed after every block of simulation."""

    def __init__(self, simulator: Simulator) -> None:
        self.clearance, self.speed = np.inf, 0.0
        self.simulator = simulator
        simulator.state.watcher = self

    def __call__(self) -> None:
        self.clearance = min(self.clearance, clearance(self.simulator).min())
        self.speed = max(self.speed, np.linalg.norm(self.simulator.state.qvel[:, :2], axis=1).max())

    def check(self) -> None:
        assert self.clearance > ROBOT_RADIUS - 0.05, "not even half a wall deep"
        # Wheels of 1.2 m/s, and what the strongest push of a tenth of a second or a ball's momentum add.
        assert 0.5 < self.speed < 1.2 + 1.1 * TARGET.force * PUSH_SECONDS / MASS
        assert self.simulator.divergences == 0


@pytest.mark.parametrize("kind", [pytest.param("balls", marks=pytest.mark.slow), "pushes"])
def test_disturbed_cell_moves_arrive_or_bump(kind):
    n, arrived, bumps = 32, [], []
    simulator, _ = disturbed(CELLS, kind, n, dirt=1.0)
    task, watch = simulator.task, Watch(simulator)
    for _ in range(24):
        actions = towards_dirt(simulator)
        here = task.cell_at(*simulator.state.qpos[:, :2].T)
        simulator.transition(actions)
        if simulator._some_ended:
            break
        goal = task.centers[task.plan.neighbors[here, actions]]
        arrived.append(np.linalg.norm(simulator.state.qpos[:, :2] - goal, axis=1) < 0.04)
        bumps.append(simulator.features[:, BUMPED] > 0)
    watch.check()
    share = np.mean(np.array(arrived) | np.array(bumps))
    if kind == "pushes":
        assert share == 1.0
        assert 0.005 < np.mean(bumps) < 0.1, "some pushes end at a wall"
    else:  # a ball between robot and wall keeps them apart
        assert share > 0.96
    assert np.mean(arrived) > 0.9


@every_kind
@pytest.mark.parametrize("plan", ["apartment", pytest.param("eight_rooms", marks=pytest.mark.slow)])
def test_disturbed_room_drives_arrive(kind, plan):
    n, rng = 16, np.random.default_rng(1)
    simulator, _ = disturbed(ROOMS, kind, n, plan=plan)
    task, watch = simulator.task, Watch(simulator)
    room = np.full(n, task.plan.room[task.plan.start])
    for _ in range(2):
        room = np.array([rng.choice(np.flatnonzero(task.plan.room_neighbors[here])) for here in room])
        simulator.state.userdata[:, task.dirt] = 1.0  # so that no episode ends
        simulator.features = task.features(simulator.state)
        simulator.transition(room)
        place = simulator.state.qpos[:, :2]
        assert np.array_equal(task.plan.room[task.cell_at(*place.T)], room)
        away = np.linalg.norm(place - task.centers[task.parking[room]], axis=1)
        assert away.max() < (0.03 if kind == "pushes" else 0.3)
    watch.check()


@every_kind
def test_disturbances_do_not_push_robot_through_walls(kind):
    n = 48
    simulator, _ = disturbed(DRIVE, kind, n, start="anywhere")
    watch = Watch(simulator)
    for action in actions_for(simulator, 60):
        simulator.transition(np.sign(action).astype(np.float32))
        if simulator._some_ended:
            break
    watch.check()


# Balls


def with_balls(environment: str = DRIVE) -> tuple[Simulator, mujoco.MjModel, mujoco.MjData]:
    simulator, _ = disturbed(environment, "balls", 1)
    return simulator, simulator.model, mujoco.MjData(simulator.model)


def touching(model: mujoco.MjModel, data: mujoco.MjData) -> set[frozenset[str]]:
    mujoco.mj_forward(model, data)
    return {frozenset(model.geom(geom).name or "wall" for geom in contact.geom) for contact in data.contact}


def test_contact_pairs_of_balls_and_bumper():
    simulator, model, data = with_balls()
    plan, radius = simulator.task.plan, TARGET.ball_radius
    x, y = plan.centers[plan.numbers[6, 4]]
    waiting = {frozenset({f"ball{ball}", "ground"}) for ball in range(BALLS)}
    data.qpos[:2] = x, y
    assert touching(model, data) <= waiting
    places = {
        (x + ROBOT_RADIUS + radius - 0.01, y, radius + 0.01): "shell",
        (x, y, ROBOT_HEIGHT + radius - 0.01): "shell",
        (x, y, ROBOT_RADIUS + 0.05 + radius - 0.01): None,  # on the bumper's sphere, which is higher than the robot
        (plan.width - 0.05 - radius + 0.01, y, 0.2): "wall",
        (x + 0.5, y, radius - 0.01): "ground",
        (x + 0.5, y, 0.5): None,
    }
    for place, other in places.items():
        data.qpos[3:6] = place
        own = {pair for pair in touching(model, data) if "ball0" in pair}
        assert own == ({frozenset({"ball0", other})} if other else set()), place
    data.qpos[3 + PLACE[1] : 6 + PLACE[1]] = data.qpos[3:6]  # in the other ball
    assert not touching(model, data) - waiting
    data.qpos[0] = plan.width - 0.05 - ROBOT_RADIUS + 0.01
    assert touching(model, data) - waiting == {frozenset({"bumper", "wall"})}


def test_ball_pushes_robot_without_bumper_contact():
    n = 64
    simulator, log = disturbed(DRIVE, "balls", n)
    task = simulator.task
    task.set_pose(simulator.state, np.arange(n), task.plan.numbers[6, 4], np.zeros(n))
    for _ in range(25):
        simulator.transition(np.zeros((n, 2), np.float32))
    knocked = 0
    for row in range(n):
        velocities = log.of_row(log.velocities, row)
        flying = np.flatnonzero(np.abs(velocities[:, 3:5]).max(axis=1) > 2.0)
        moving = np.flatnonzero(np.abs(velocities[:, :2]).max(axis=1) > 0.05)
        if len(flying) and len(moving):
            assert moving[0] - flying[0] < 1.2 * FLIGHT_SECONDS / 0.02
            towards = velocities[flying[0], 3:5] / np.linalg.norm(velocities[flying[0], 3:5])
            assert velocities[moving[0], :2] @ towards > 0.0
            knocked += 1
    assert knocked > 8
    assert not simulator.features[:, 6:9].any()


def test_range_sensors_see_balls():
    simulator, _ = disturbed(DRIVE, "balls", 1, plan="studio")
    task, state = simulator.task, simulator.state
    task.set_pose(state, np.array([0]), np.array([task.plan.start]), np.zeros(1))
    wall = task.ranges(state)[0]
    radius = TARGET.ball_radius
    x, y = state.qpos[0, :2]
    simulator.batch.bind("qpos")[0, 3:6] = x + 1.0, y, radius
    seen = task.ranges(state)[0]
    across = np.sqrt(radius**2 - (radius - 0.05) ** 2)  # the ball's half-width at the height of the readings
    assert seen[0] == pytest.approx(1.0 - across - ROBOT_RADIUS)
    assert seen[0] < wall[0] < MAX_RANGE
    assert np.array_equal(seen[1:], wall[1:])
    assert task.features(state)[0, RANGE][0] == pytest.approx(seen[0])


@every_vacuum
def test_distant_ball_changes_nothing_bit_for_bit(environment):
    n = 24
    simulator, log = disturbed(environment, "balls", n)
    plain = make_simulator(environment, n, max_episode_steps=None)
    other = Log(plain)
    plain.reset(seed=0)
    for action in actions_for(plain, {CELLS: 10, ROOMS: 4, DRIVE: 60}[environment]):
        simulator.transition(action)
        plain.transition(action)
        if simulator._some_ended or plain._some_ended:
            break
    compared, differing = 0, 0
    for row in range(n):
        place, expected = log.of_row(log.positions, row), other.of_row(other.positions, row)
        count = min(len(place), len(expected))
        balls = place[:count, 3:].reshape(count, BALLS, 7)[:, :, :2]
        away = np.linalg.norm(balls - place[:count, None, :2], axis=2).min(axis=1)
        near = np.logical_or.accumulate(away < ROBOT_RADIUS + TARGET.ball_radius + 0.3)
        difference = np.abs(place[:count, :3] - expected[:count]).max(axis=1)
        # At walls the solver handles all contacts together, so there steps may differ by rounding.
        assert difference[~near].max(initial=0.0) < 1e-9
        compared += np.count_nonzero(~near)
        differing += difference[-1] > 1e-4
    assert compared > 200
    assert differing > 3, "a ball that hits makes a difference"


@pytest.mark.parametrize(
    "environment", [DRIVE, *(pytest.param(other, marks=pytest.mark.slow) for other in (CELLS, ROOMS))]
)
def test_picture_shows_simulated_balls(environment):
    simulator = make_simulator(environment, 1, disturb="balls", render_mode="rgb_array", width=160, height=120)
    simulator.reset(seed=0)
    drawn = simulator.task.picture(simulator.model)
    assert (drawn.nq, drawn.nv) == (simulator.model.nq, simulator.model.nv)
    before = simulator.render()[0].astype(int)
    simulator.batch.bind("qpos")[0, 3:6] = 3.0, 1.2, 0.3
    after = simulator.render()[0].astype(int)
    changed = after[(np.abs(after - before) > 40).any(axis=2)]
    assert len(changed) > 3
    assert (changed[:, 0] > 1.5 * changed[:, 2]).any(), "red"
    simulator.close()
