"""The vacuum by wheel speeds: sensors that agree with MuJoCo and with geometry, and rewards for cleaning alone."""

import mujoco
import numpy as np
import pytest
import torch

from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.tasks.vacuum.drive import (
    BUMP,
    CAMERA_RANGE,
    COSINE,
    LEVELS_LEFT,
    MAX_RANGE,
    PATH,
    RANGE,
    RANGES,
    SECTORS,
    SEEN,
    SINE,
    SPEED,
    TIME,
    TOUCH,
    TURNING,
)
from gantry.envs.tasks.vacuum.robot import MAX_WHEEL_SPEED, ROBOT_RADIUS, WHEEL_DISTANCE, wheel_speeds

ID = "gantry/VacuumDrive-v0"


def drive(n: int = 1, **options) -> Simulator:
    simulator = make_simulator(ID, n, **{"max_episode_steps": None, **options})
    simulator.reset(seed=0)
    return simulator


def act(simulator: Simulator, left: float, right: float, steps: int = 1) -> tuple:
    actions = np.tile(np.array([left, right], np.float32), (simulator.num_envs, 1))
    for _ in range(steps):
        result = simulator.transition(actions)
    return result


def test_ranges_match_serial_rays():
    simulator = drive(12, start="anywhere")
    rng = np.random.default_rng(0)
    for _ in range(5):
        simulator.transition(rng.uniform(-1, 1, (12, 2)).astype(np.float32))
    model = simulator.model
    bumper = model.geom("bumper").id
    for row in range(12):
        data = simulator.batch.get_data(row)
        mujoco.mj_forward(model, data)
        x, y, heading = simulator.state.qpos[row]
        for index in range(RANGES):
            angle = heading + 2 * np.pi * index / RANGES
            hit = np.zeros(1, np.int32)
            direction = np.array([np.cos(angle), np.sin(angle), 0.0])
            body = model.geom(bumper).bodyid[0]
            distance = mujoco.mj_ray(model, data, np.array([x, y, 0.05]), direction, None, 1, body, hit)
            assert hit[0] >= 0
            expected = min(max(distance - ROBOT_RADIUS, 0.0), MAX_RANGE)
            assert simulator.features[row, RANGE][index] == pytest.approx(expected, abs=1e-5)


def test_ranges_in_studio_by_hand():
    simulator = drive(plan="studio")
    task, state = simulator.task, simulator.state
    task.set_pose(state, np.array([0]), np.array([task.plan.start]), np.zeros(1))
    ranges = task.ranges(state)[0]
    # The middle of the south-west cell; walls reach 5 cm into the room.
    assert ranges[0] == pytest.approx(2.5 - 0.25 - 0.05 - ROBOT_RADIUS)
    assert ranges[4] == pytest.approx(2.0 - 0.25 - 0.05 - ROBOT_RADIUS)
    assert ranges[8] == ranges[12] == pytest.approx(0.25 - 0.05 - ROBOT_RADIUS)


def test_wheel_speeds_drive_straight_or_turn_in_place():
    simulator = drive(plan="apartment")
    task, state = simulator.task, simulator.state
    middle = task.plan.numbers[6, 2]
    task.set_pose(state, np.array([0]), np.array([middle]), np.zeros(1))
    act(simulator, 0.5, 0.5, 5)
    features = simulator.features[0]
    assert features[SPEED] == pytest.approx(0.5 * MAX_WHEEL_SPEED, rel=0.02)
    assert features[TURNING] == pytest.approx(0.0, abs=0.01)
    assert (features[COSINE], features[SINE]) == pytest.approx((1, 0), abs=0.01)
    act(simulator, 0, 0, 8)
    place = state.qpos[0, :2].copy()
    act(simulator, -0.2, 0.2, 10)
    assert simulator.features[0, TURNING] == pytest.approx(0.4 * MAX_WHEEL_SPEED / WHEEL_DISTANCE, rel=0.05)
    assert np.abs(state.qpos[0, :2] - place).max() < 0.01


@pytest.mark.parametrize(
    ("heading", "speed", "pressed"),
    [(np.pi - 0.5, 0.5, [1, 0, 0]), (np.pi + 0.5, 0.5, [0, 1, 0]), (0.0, -0.5, [0, 0, 1]), (np.pi, 0.5, [1, 1, 0])],
)
def test_bumper_at_west_wall_is_pressed(heading, speed, pressed):
    simulator = drive(plan="studio")
    task, state = simulator.task, simulator.state
    task.set_pose(state, np.array([0]), np.array([task.plan.numbers[2, 0]]), np.array([heading]))
    _, terms, *_ = act(simulator, speed, speed, 3)
    felt = simulator.features[0, TOUCH]
    assert felt.any()
    assert (felt <= pressed).all(), "a touch at the border of two zones may be felt by either"
    assert terms["bump"] == BUMP
    act(simulator, -speed, -speed, 2)
    assert not simulator.features[0, TOUCH].any()
    assert simulator.task.metrics(simulator.features)["bumps"][0] >= 1


def test_driving_over_dirt_cleans_only_it():
    simulator = drive(plan="studio", dirt=1.0)
    task, state = simulator.task, simulator.state
    numbers = task.plan.numbers
    task.set_pose(state, np.array([0]), np.array([numbers[3, 0]]), np.zeros(1))
    simulator.features = task.features(state)
    before = state.userdata[0, task.dirt].copy()
    total = 0.0
    for _ in range(20):
        _, terms, *_ = act(simulator, 0.5, 0.5)
        total += float(np.asarray(terms["cleaned"]).item())
        assert terms["time"] == TIME
    after = state.userdata[0, task.dirt]
    x = state.qpos[0, 0]
    crossed = [numbers[3, column] for column in range(5) if (column + 0.5) * 0.5 - ROBOT_RADIUS <= x]
    assert 3 <= len(crossed) <= 4
    expected = before.copy()
    expected[crossed] = 0
    assert after.tolist() == expected.tolist()
    assert total == before.sum() - after.sum()
    coverage = task.metrics(simulator.features)["coverage"][0]
    assert coverage == pytest.approx(1 - (after > 0).sum() / (before > 0).sum())
    assert simulator.features[0, PATH] == pytest.approx(x - 0.25, abs=0.01)


def test_camera_sees_nearest_dirt_per_sector_not_through_walls():
    simulator = drive()
    task, state, plan = simulator.task, simulator.state, simulator.task.plan
    dirt = state.userdata[0, task.dirt]
    dirt[:] = 0
    here = plan.numbers[6, 3]
    task.set_pose(state, np.array([0]), np.array([here]), np.array([np.pi / 2]))
    dirt[plan.numbers[6, 5]] = 1  # 1 m to the east: at 270° from a robot that faces north
    dirt[plan.numbers[4, 3]] = 2  # 1 m to the north
    dirt[plan.numbers[3, 3]] = 2  # behind it, and behind a wall
    seen = task.features(state)[0, SEEN]
    expected = np.zeros(SECTORS)
    expected[[0, 9]] = 1 - 1 / CAMERA_RANGE
    assert seen == pytest.approx(expected, abs=1e-6)
    dirt[plan.numbers[4, 3]] = 0
    assert task.features(state)[0, SEEN][0] == 0


def test_reward_of_idle_behavior_is_negative():
    for left, right in ((0, 0), (0.5, -0.5), (-0.3, -0.3)):
        simulator = drive(4)
        act(simulator, left, right, 200)  # time to clean what lies on the way to the wall
        total = 0.0
        for _ in range(20):
            reward, *_ = act(simulator, left, right)
            total = total + reward
        assert (total < 0).all()


def towards_dirt(simulator: Simulator) -> np.ndarray:
    """Wheel speeds (n, 2) of a controller that knows the map: from cell to cell on the way to the nearest dirt."""
    task, plan, pose = simulator.task, simulator.task.plan, simulator.state.qpos
    here = task.cell_at(pose[:, 0], pose[:, 1])
    dirty = simulator.state.userdata[:, task.dirt] > 0
    target = np.where(dirty, plan.distances[here], 10**6).argmin(axis=1)
    ahead = np.where(plan.neighbors[here] >= 0, plan.distances[plan.neighbors[here], target[:, None]], 10**6)
    following = np.where(target == here, here, plan.neighbors[here, ahead.argmin(axis=1)])
    # Through the middle of a cell, so that no corner is cut.
    across = np.abs(pose[:, :2] - task.centers[here]).min(axis=1) > 0.06
    goal = np.where(across[:, None], task.centers[here], task.centers[following])
    return np.clip(wheel_speeds(pose, goal) / MAX_WHEEL_SPEED, -1, 1).astype(np.float32)


def test_scripted_controller_cleans_apartment():
    simulator = make_simulator(ID, 3, autoreset_mode="NextStep")
    simulator.reset(seed=0)
    start = simulator.features[:, LEVELS_LEFT].copy()
    total, alive, steps = np.zeros(3), np.ones(3, bool), 0
    while alive.any():
        _, reward, terminated, truncated, infos = simulator.step(towards_dirt(simulator))
        total += np.where(alive, reward, 0.0)
        assert infos["success"][alive & terminated].all()
        assert not truncated.any()
        alive &= ~terminated
        steps += 1
    assert (total > start - 0.02 * steps).all(), "all the dirt, less the time"


def test_reward_of_torch_tensors():
    simulator = drive(4)
    before = simulator.features
    reward, *_ = act(simulator, 1.0, 0.8, 1)
    tensors = [torch.from_numpy(array) for array in (before, np.zeros((4, 3), np.float32), simulator.features)]
    np.testing.assert_allclose(simulator.task.reward(*tensors)[0].numpy(), reward, rtol=1e-6)
    assert not simulator.task.terminated(tensors[2]).any()
