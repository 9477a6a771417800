"""What holds for every vacuum task: exactness, saving, solid walls, honest spaces, dirt that is seen to vanish."""

import functools
import warnings
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.tasks.vacuum.robot import ROBOT_RADIUS, wheel_speeds
from gantry.errors import GantryError

CELLS, ROOMS, DRIVE = "gantry/Vacuum-v0", "gantry/VacuumRooms-v0", "gantry/VacuumDrive-v0"

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    (CELLS, {}),
    (CELLS, {"observation": "planes"}),
    (CELLS, {"battery": 80, "slip": 0.2, "start": "anywhere"}),
    (CELLS, {"observation": "planes", "battery": 80}),
    (CELLS, {"plan": "studio", "dirty_cells": 4}),
    (ROOMS, {}),
    (ROOMS, {"observation": "discrete", "start": "fixed"}),
    (DRIVE, {}),
    (DRIVE, {"plan": "studio", "start": "anywhere", "dirt": 1.0}),
]
NAMES = [f"{environment.split('/')[1]} {options}" for environment, options in VARIANTS]
every_variant = pytest.mark.parametrize(("environment", "options"), VARIANTS, ids=NAMES)
UNUSUAL = [
    pytest.param(*variant, id=name) for variant, name in zip(VARIANTS, NAMES, strict=True) if len(variant[1]) > 1
]
"""What test_every_environment, which changes one option at a time, does not cover."""
unusual_variant = pytest.mark.parametrize(("environment", "options"), UNUSUAL)


def actions_for(simulator: Simulator, steps: int, seed: int = 0) -> np.ndarray:
    """Random actions (steps, n, ...), those of wheels lasting long enough to run into walls."""
    rng = np.random.default_rng(seed)
    n = simulator.num_envs
    if isinstance(simulator.single_action_space, gymnasium.spaces.Discrete):
        return rng.integers(simulator.single_action_space.n, size=(steps, n))
    held = rng.uniform(-0.4, 1.0, (steps // 10 + 1, n, 2)).repeat(10, axis=0)[:steps]
    return held.astype(np.float32)


@unusual_variant
def test_vector_environments_equal_single_ones_bit_for_bit(environment, options):
    n, steps, limit = 8, 10, 4
    simulator = make_simulator(environment, n, max_episode_steps=limit, num_threads=2, **options)
    actions = actions_for(simulator, steps)
    rows = [0, 7]
    observation, _ = simulator.reset(seed=5)
    singles = {row: gymnasium.make(f"gantry:{environment}", max_episode_steps=limit, **options) for row in rows}
    for row, single in singles.items():
        assert np.array_equal(single.reset(seed=5 + row)[0], observation[row])
    for action in actions:
        observation, reward, terminated, truncated, infos = simulator.step(action)
        for row, single in singles.items():
            seen, own_reward, own_terminated, own_truncated, info = single.step(action[row])
            assert (own_reward, own_terminated, own_truncated) == (reward[row], terminated[row], truncated[row])
            if own_terminated or own_truncated:
                assert np.array_equal(seen, infos["final_obs"][row])
                seen = single.reset()[0]
            else:
                assert info["coverage"] == infos["coverage"][row]
            assert np.array_equal(seen, observation[row])


def recorded_controls(simulator: Simulator, action: np.ndarray, row: int) -> tuple[np.ndarray, list[Any], np.ndarray]:
    """The state of a row before a step, the controls of each block of simulation in it, and the state after it."""
    batch, controls = simulator.batch, []
    step = batch.step

    def recording_step(rows: Any, substeps: int, stage: int) -> None:
        if rows is None or rows[row]:
            controls.append((substeps, simulator.state.ctrl[row].copy()))
        step(rows, substeps, stage)

    before = batch.state[row].copy()
    batch.step = recording_step
    simulator.transition(action)
    del batch.step
    return before, controls, np.concatenate([simulator.state.qpos[row], simulator.state.qvel[row]])


@pytest.mark.parametrize("environment", [CELLS, ROOMS, DRIVE])
def test_physics_equals_serial_mj_step_bit_for_bit(environment):
    simulator = make_simulator(environment, 16, max_episode_steps=None, num_threads=2)
    simulator.reset(seed=2)
    model, row = simulator.model, 3
    data = mujoco.MjData(model)
    contacts = 0
    for action in actions_for(simulator, 25, seed=1):
        if environment == ROOMS and simulator._ended.any():
            break
        before, controls, after = recorded_controls(simulator, action, row)
        mujoco.mj_setState(model, data, before, mujoco.mjtState.mjSTATE_INTEGRATION)
        for substeps, control in controls:
            data.ctrl[:] = control
            for _ in range(substeps):
                mujoco.mj_step(model, data)
                contacts += data.ncon
        assert np.array_equal(after, np.concatenate([data.qpos, data.qvel]))
    assert contacts > 0 or environment == ROOMS


@unusual_variant
def test_state_restored_mid_episode_continues_exactly(environment, options):
    simulator = make_simulator(environment, 4, **options)
    actions = actions_for(simulator, 12)
    simulator.reset(seed=1)
    for action in actions[:6]:
        simulator.step(action)
    saved = simulator.get_state()
    other = make_simulator(environment, 4, **options)
    other.set_state(saved)
    assert np.array_equal(other.state.userdata, simulator.state.userdata), "dirt and counters are part of the state"
    for action in actions[6:]:
        one, two = simulator.step(action), other.step(action)
        for a, b in zip(one[:4], two[:4], strict=True):
            assert np.array_equal(a, b)
        assert np.array_equal(one[4]["coverage"], two[4]["coverage"])


@unusual_variant
def test_environment_checkers_pass(environment, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make_single(environment, **options), skip_render_check=True)
        check_env_for_sb3(make_single(environment, **options))


def make_single(environment: str, **options: Any) -> gymnasium.Env:
    return gymnasium.make(f"gantry:{environment}", render_mode="rgb_array", width=48, height=36, **options).unwrapped


@functools.cache
def long_run(environment: str, variant: int) -> tuple[Simulator, np.ndarray]:
    """A simulator of many rows, and what it observed over a few episodes (steps, n, ...)."""
    rows, limit = 8 if environment == ROOMS else 48, 16
    if variant in (0, 4):  # some columns change seldom: places far from the start, dirt in one of few dirty cells
        rows, limit = 96, 24
    simulator = make_simulator(environment, rows, max_episode_steps=limit, **VARIANTS[variant][1])
    first = simulator.reset(seed=0)[0]
    return simulator, np.array([first, *(simulator.step(action)[0] for action in actions_for(simulator, 2 * limit))])


@pytest.mark.parametrize(
    "variant",
    # The others combine what these observe with other starts and floors.
    [
        pytest.param(index, marks=[pytest.mark.slow] * (index not in (0, 1, 2, 5, 7)), id=NAMES[index])
        for index in range(9)
    ],
)
def test_observations_are_in_space_and_informative(variant):
    environment, options = VARIANTS[variant]
    simulator, seen = long_run(environment, variant)
    space = simulator.single_observation_space
    assert all(simulator.observation_space.contains(step) for step in seen)
    if options.get("observation") != "flat" and not isinstance(space, gymnasium.spaces.Box):
        assert len(np.unique(seen)) > 5
        return
    columns = seen.reshape(-1, int(np.prod(space.shape)))
    if options.get("observation") == "planes":
        columns = columns.reshape(len(columns), *space.shape)[:, 1]  # dirt
        columns = columns.reshape(len(columns), -1)
        walled = simulator.task.plan.room_grid < 0
        pixels = space.shape[1] // len(walled)
        columns = columns[:, ~walled.repeat(pixels, 0).repeat(pixels, 1).ravel()][:, :: pixels**2]
        start = simulator.task.plan.start
        assert (np.ptp(columns.astype(int), axis=0) > 0).sum() >= columns.shape[1] - 1 - (start >= 0)
        return
    assert (np.ptp(columns, axis=0) > 0).all()
    normal = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    correlation = np.abs(normal.T @ normal / len(normal)) - np.eye(columns.shape[1])
    assert correlation.max() < 0.9999


def test_walls_stop_commanded_robot():
    simulator = make_simulator(DRIVE, 96, max_episode_steps=None, plan="apartment")
    simulator.reset(seed=0)
    state, plan = simulator.state, simulator.task.plan
    speeds = np.tile(np.repeat([0.1, 0.5, 1.0, -1.0], 2), 12)
    turns = np.tile([0.0, 0.004], 48)
    cells = np.linspace(0, len(plan.cells) - 1, 12).astype(int).repeat(8)
    state.qpos[:, :2] = plan.centers[cells]
    state.qpos[:, 2] = np.linspace(0, 2 * np.pi, 96, endpoint=False) * 7
    actions = np.stack([speeds - turns, speeds + turns], axis=1).astype(np.float32)
    geoms = [simulator.model.geom(index) for index in range(simulator.model.ngeom)]
    boxes = [(geom.pos[:2], geom.size[:2]) for geom in geoms if geom.type == mujoco.mjtGeom.mjGEOM_BOX]
    touched = np.zeros(96, bool)
    for _ in range(150):
        simulator.transition(actions)
        touched |= simulator.features[:, 6:9].any(axis=1)
        for center, half in boxes:
            outside = np.maximum(np.abs(state.qpos[:, :2] - center) - half, 0.0)
            assert np.linalg.norm(outside, axis=1).min() > ROBOT_RADIUS - 0.03, "the bumper gives 3 cm at most"
    assert touched.mean() > 0.9


def test_walls_stop_thrown_robot():
    simulator = make_simulator(CELLS, 64, max_episode_steps=None)
    simulator.reset(seed=0)
    state, plan = simulator.state, simulator.task.plan
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    state.qpos[:, :2] = plan.centers[plan.start] + 0.5
    state.qvel[:, :2] = 5.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for _ in range(100):
        simulator.batch.step(None, 1)
        x, y = state.qpos[:, 0], state.qpos[:, 1]
        assert (simulator.task.cell_at(x, y) >= 0).all()
        assert ((x > 0) & (x < plan.width) & (y > 0) & (y < plan.depth)).all()


def test_wheel_speeds_turn_drive_and_stop_at_goal():
    pose = np.zeros((5, 3))
    goal = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, -1.0]])
    left, right = wheel_speeds(pose, goal).T
    assert left[0] == right[0] > 1.0, "straight ahead"
    assert left[1] == right[1] < -1.0, "straight back"
    assert -left[2] == right[2] > 0.5, "turn left on the spot"
    assert left[3] == right[3] == 0.0
    assert left[4] == -right[4] > 0.5, "turn right on the spot"


@pytest.mark.parametrize(
    "environment", [CELLS, *(pytest.param(other, marks=pytest.mark.slow) for other in (ROOMS, DRIVE))]
)
def test_dirt_markers_vanish_when_cleaned(environment):
    env = gymnasium.make(f"gantry:{environment}", render_mode="rgb_array", width=200, height=150).unwrapped
    env.reset(seed=0)
    dirty = env.render().astype(int)
    task, state = env.simulator.task, env.simulator.state
    levels = state.userdata[0, task.dirt].copy()
    cell = int(np.flatnonzero(levels)[-1])
    points = sum(len(marker.points) for marker in task.markers(env.simulator.batch.get_data(0)))
    state.userdata[0, task.dirt.start + cell] = 0.0
    cleaner = env.render().astype(int)
    fewer = sum(len(marker.points) for marker in task.markers(env.simulator.batch.get_data(0)))
    assert 0 < fewer < points
    state.userdata[0, task.dirt] = 0.0
    clean = env.render().astype(int)
    changed = (np.abs(dirty - clean) > 20).any(axis=2).sum()
    assert changed > 25, "the crumbs are large enough to be seen"
    assert 0 < (np.abs(dirty - cleaner) > 20).any(axis=2).sum() < changed
    env.close()


@pytest.mark.parametrize(
    ("environment", "options", "message"),
    [
        (CELLS, {"plan": "castle"}, "no floor plan 'castle'"),
        (CELLS, {"observation": "picture"}, "observation must be 'flat', 'local' or 'planes'"),
        (CELLS, {"start": "roof"}, "start must be"),
        (CELLS, {"dirt": 0.0}, "dirt must be above 0"),
        (CELLS, {"dirty_cells": 1000}, "dirty_cells must be from 1 to 83"),
        (CELLS, {"battery": 3}, "battery must be at least"),
        (CELLS, {"slip": 1.5}, "slip must be from 0 to 1"),
        (ROOMS, {"plan": "studio"}, "needs a plan of 2 to 12 rooms"),
        (ROOMS, {"start": "dock"}, "start must be 'random' or 'fixed'"),
        (DRIVE, {"start": "roof"}, "start must be"),
        (DRIVE, {"dirt": 2}, "dirt must be above 0"),
        (DRIVE, {"battery": 3}, "battery"),
    ],
)
def test_wrong_option_is_refused_in_one_line(environment, options, message):
    with pytest.raises(GantryError, match=message) as caught:
        make_simulator(environment, **options)
    assert "\n" not in str(caught.value)
