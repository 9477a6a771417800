"""The vacuum cell by cell: moves that arrive, bumps that cost, measures that add up, rewards for cleaning alone."""

import itertools

import numpy as np
import pytest
import torch

from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.tasks.vacuum.cells import (
    APPROACH,
    BATTERY,
    BUMP,
    BUMPED,
    DIRT,
    DIRTY,
    DISTANCE,
    MOVE,
    PATH,
    STRANDED,
    TOUR,
    VIEW,
    X,
    Y,
)

ID = "gantry/Vacuum-v0"
NORTH, EAST, SOUTH, WEST = range(4)


def vacuum(n: int = 1, **options) -> Simulator:
    simulator = make_simulator(ID, n, **{"max_episode_steps": None, **options})
    simulator.reset(seed=0)
    return simulator


def step(simulator: Simulator, actions) -> tuple:
    return simulator.transition(np.asarray(actions))


def cells(simulator: Simulator) -> np.ndarray:
    return simulator.task.cell_at(simulator.state.qpos[:, 0], simulator.state.qpos[:, 1])


@pytest.mark.parametrize("plan", ["apartment", "studio"])
def test_moves_reach_planned_cell_and_bump_only_at_walls(plan):
    """From every cell in every direction, with any heading."""
    task = vacuum(plan=plan).task
    count = len(task.centers)
    simulator = vacuum(4 * count, plan=plan)
    start = np.arange(count).repeat(4)
    directions = np.tile(np.arange(4), count)
    heading = np.random.default_rng(0).uniform(-10, 10, 4 * count)
    task.set_pose(simulator.state, np.arange(4 * count), start, heading)
    neighbors = task.plan.neighbors[start, directions]
    expected = np.where(neighbors < 0, start, neighbors)
    step(simulator, directions)
    error = np.linalg.norm(simulator.state.qpos[:, :2] - task.centers[expected], axis=1)
    assert error.max() < 0.03
    assert np.array_equal(simulator.features[:, BUMPED] > 0, neighbors < 0)
    assert np.array_equal(cells(simulator), expected)


def test_moves_stay_accurate_over_a_hundred():
    simulator = vacuum(8)
    rng = np.random.default_rng(1)
    for _ in range(100):
        if simulator._ended.any():
            break
        before, actions = cells(simulator), rng.integers(4, size=8)
        neighbors = simulator.task.plan.neighbors[before, actions]
        step(simulator, actions)
        assert np.array_equal(cells(simulator), np.where(neighbors < 0, before, neighbors))


def test_move_duration_is_at_most_one_second():
    simulator = vacuum(8)
    for actions in np.random.default_rng(0).integers(4, size=(20, 8)):
        before = simulator.state.time.copy()
        step(simulator, actions)
        taken = simulator.state.time - before
        assert taken.max() <= 1.0 + 1e-9
        assert taken.min() >= 0.36 - 1e-9


def test_reward_terms_by_hand():
    simulator = vacuum(plan="studio")
    task, userdata = simulator.task, simulator.state.userdata
    dirt, numbers = userdata[0, task.dirt], task.plan.numbers
    dirt[:] = 0
    north, far = numbers[2, 0], numbers[0, 4]
    dirt[north], dirt[far] = 2, 1
    userdata[0, task.counter["dirty_at_start"]] = 2
    simulator.features = task.features(simulator.state)
    assert (simulator.features[0, DISTANCE], simulator.features[0, DIRTY]) == (1, 2)
    # The start is in the south-west corner: north cleans two levels, and the other dirt is 2 + 4 cells away.
    reward, terms, terminated, _, _ = step(simulator, [NORTH])
    assert terms["cleaned"] == 2
    assert terms["bump"] == 0
    assert terms["time"] == MOVE
    assert terms["approach"] == pytest.approx(APPROACH * (1 - 6))
    assert reward == pytest.approx(2 + MOVE - 5 * APPROACH)
    assert not terminated
    reward, terms, *_ = step(simulator, [WEST])
    assert terms["bump"] == BUMP
    assert reward == pytest.approx(BUMP + MOVE)
    for action in (NORTH, NORTH, EAST, EAST, EAST):
        _, terms, *_ = step(simulator, [action])
        assert not terms["cleaned"]
    measures = task.metrics(simulator.features)
    assert measures["coverage"] == 0.5
    assert not measures["success"]
    _, terms, terminated, _, _ = step(simulator, [EAST])
    assert terms["cleaned"] == 1
    assert terminated.all()
    measures = task.metrics(simulator.features)
    assert (measures["coverage"], measures["success"]) == (1, True)


def test_bumps_and_path_length_metrics():
    simulator = vacuum(plan="studio")
    for action in (WEST, SOUTH, EAST, EAST, WEST):
        step(simulator, [action])
    measures = simulator.task.metrics(simulator.features)
    assert measures["bumps"] == 2
    # Three moves of half a metre, and twice to the wall, 3 cm, and back.
    assert measures["path_length"][0] == pytest.approx(1.5 + 2 * 2 * 0.03, abs=0.1)


def test_random_dirt_has_requested_fraction_and_spares_start():
    simulator = vacuum(400, dirt=0.3)
    levels = simulator.features[:, DIRT:]
    start = simulator.task.plan.start
    assert (levels[:, start] == 0).all()
    others = np.delete(levels, start, axis=1)
    assert (others > 0).mean() == pytest.approx(0.3, abs=0.01)
    assert (others == 2).mean() == pytest.approx(0.1, abs=0.01)
    exact = vacuum(50, dirty_cells=6).features[:, DIRT:]
    assert ((exact > 0).sum(axis=1) == 6).all()
    assert ((exact == 2).sum(axis=1) == 2).all()


def test_tour_feature_matches_brute_force():
    simulator = vacuum(20, dirty_cells=4, start="anywhere")
    plan, start = simulator.task.plan, cells(simulator)
    for row in range(20):
        dirty = np.flatnonzero(simulator.features[row, DIRT:])
        best = min(
            sum(plan.distances[a, b] for a, b in itertools.pairwise([start[row], *order]))
            for order in itertools.permutations(dirty)
        )
        assert simulator.features[row, TOUR] == pytest.approx(best * plan.cell)
    assert "path_over_tour" in simulator.task.metrics(simulator.features)
    assert "path_over_tour" not in vacuum().task.metrics(simulator.features)


def test_path_over_tour_of_optimal_tour_is_one():
    simulator = vacuum(plan="studio", dirty_cells=1)
    while not simulator._ended.any():
        step(simulator, towards_dirt(simulator))
    assert simulator.task.metrics(simulator.features)["path_over_tour"][0] == pytest.approx(1.0, abs=0.06)


def towards_dirt(simulator: Simulator, t: int = 0) -> np.ndarray:
    """The first of the moves (n,) that bring each robot nearer to its nearest dirt."""
    task, plan = simulator.task, simulator.task.plan
    here = cells(simulator)
    distances = np.where(simulator.state.userdata[:, task.dirt] > 0, plan.distances[here], 10**6)
    goal = distances.argmin(axis=1)
    ahead = np.where(plan.neighbors[here] >= 0, plan.distances[plan.neighbors[here], goal[:, None]], 10**6)
    return ahead.argmin(axis=1)


def returns(policy, steps: int = 100, n: int = 2) -> np.ndarray:
    """Returns (n,) of a scripted policy: simulator, step → actions (n,)."""
    simulator = make_simulator(ID, n, max_episode_steps=steps, autoreset_mode="NextStep")
    simulator.reset(seed=3)
    total, alive = np.zeros(n), np.ones(n, bool)
    for t in range(steps):
        _, reward, terminated, truncated, _ = simulator.step(policy(simulator, t))
        total += reward * alive
        alive &= ~(terminated | truncated)
    return total


def test_reward_of_idle_behavior_is_below_cleaning():
    def everywhere(action):
        return lambda simulator, t: np.full(simulator.num_envs, action)

    bumping = returns(everywhere(SOUTH))
    to_and_fro = returns(lambda simulator, t: np.full(simulator.num_envs, (NORTH, SOUTH)[t % 2]))
    round_and_round = returns(lambda simulator, t: np.full(simulator.num_envs, (NORTH, EAST, SOUTH, WEST)[t % 4]))
    cleaning = returns(towards_dirt)
    assert bumping.max() < -50
    # What these clean on their first round is all they ever earn; each later step costs.
    assert to_and_fro.max() < 0
    assert round_and_round.max() < 1.5
    assert cleaning.min() > 20


def test_approach_term_sums_to_zero_over_loops():
    simulator = vacuum(plan="studio")
    task = simulator.task
    simulator.state.userdata[0, task.dirt] = 0
    simulator.state.userdata[0, task.plan.numbers[0, 4]] = 2
    simulator.features = task.features(simulator.state)
    total = 0.0
    for action in (EAST, EAST, NORTH, NORTH, SOUTH, SOUTH, WEST, WEST):
        reward, *_ = step(simulator, [action])
        total += float(np.asarray(reward).item())
    assert total == pytest.approx(8 * MOVE, abs=1e-6)


def test_slip_probability_and_directions():
    simulator = vacuum(300, slip=0.3)
    task = simulator.task
    middle = task.plan.numbers[6, 5]  # free on all sides
    assert (task.plan.neighbors[middle] >= 0).all()
    went = np.zeros(4)
    for _ in range(4):
        task.set_pose(simulator.state, np.arange(300), np.full(300, middle), np.zeros(300))
        step(simulator, np.full(300, EAST))
        after = cells(simulator)
        went += [(after == neighbor).sum() for neighbor in task.plan.neighbors[middle]]
    share = went / went.sum()
    assert share[EAST] == pytest.approx(0.7, abs=0.05)
    assert share[NORTH] == pytest.approx(0.15, abs=0.04)
    assert share[SOUTH] == pytest.approx(0.15, abs=0.04)
    assert share[WEST] == 0


def test_battery_discharges_recharges_and_terminates():
    simulator = vacuum(plan="studio", battery=20)
    charges = []
    for action in (EAST, EAST, WEST, WEST):
        step(simulator, [action])
        charges.append(simulator.features[0, BATTERY])
    assert charges == pytest.approx([0.95, 0.9, 0.85, 1.0])
    for t in range(20):
        _, terms, terminated, *_ = step(simulator, [EAST if t % 2 == 0 or t < 3 else WEST])
    assert simulator.features[0, BATTERY] == 0
    assert terms["stranded"] == STRANDED
    assert terminated.all()
    assert simulator.task.observation(simulator.features)[0, -1] == 0


def test_flat_observation_shows_surrounding_dirt():
    simulator = vacuum(plan="studio", start="anywhere")
    task, plan = simulator.task, simulator.task.plan
    observation = task.observation(simulator.features)[0]
    here = cells(simulator)[0]
    row, column = plan.cells[here]
    levels = simulator.features[0, DIRT:]
    assert observation[0] == pytest.approx((column + 0.5) / plan.columns, abs=0.01)
    assert observation[1] == pytest.approx(1 - (row + 0.5) / plan.rows, abs=0.01)
    assert observation[7:11].tolist() == (plan.neighbors[here] >= 0).tolist()
    around = []
    for row_step, column_step in itertools.product(range(-VIEW, VIEW + 1), repeat=2):
        both = [
            (number, plan.numbers[r + row_step, c + column_step])
            for number, (r, c) in enumerate(plan.cells)
            if 0 <= r + row_step < plan.rows and 0 <= c + column_step < plan.columns
        ]
        near = {number: other for number, other in both if other >= 0 and plan.distances[number, other] <= 2 * VIEW}
        if near and (row_step or column_step):
            around.append(levels[near[here]] / 2 if here in near else 0)
    assert observation[11:-4].tolist() == around


def test_dirt_pull_points_along_shortest_path():
    simulator = vacuum(plan="studio", dirty_cells=1)
    task, plan = simulator.task, simulator.task.plan
    dirt = simulator.state.userdata[0, task.dirt]
    dirt[:] = 0
    dirt[plan.numbers[3, 3]] = 2
    pull = 2 * 0.85**3
    seen = task.observation(task.features(simulator.state))[0, -4:]
    assert seen == pytest.approx([0, pull / (1 + pull), 0, 0])
    dirt[plan.numbers[2, 0]] = 1
    seen = task.observation(task.features(simulator.state))[0, -4:]
    assert seen == pytest.approx([0.85 / 1.85, pull / (1 + pull), 0, 0])


def test_image_planes_show_robot_and_dirt():
    simulator = vacuum(3, observation="planes", battery=80)
    task, plan = simulator.task, simulator.task.plan
    image = task.observation(simulator.features)
    assert image.shape == (3, *task.observation_space.shape)
    pixels = image.shape[2] // plan.rows
    cell = image[:, :, ::pixels, ::pixels]
    assert np.array_equal(cell.repeat(pixels, 2).repeat(pixels, 3), image)
    row, column = plan.cells[plan.start]
    assert np.argwhere(cell[0, 0]).tolist() == [[row, column]]
    for (r, c), level in zip(plan.cells, simulator.features[1, DIRT:], strict=True):
        assert cell[1, 1, r, c] == (0, 127, 255)[int(level)]
    assert (cell[:, 2] == 255).all()


def test_reward_of_torch_tensors_and_any_leading_shape():
    simulator = vacuum(6, battery=80)
    before = simulator.features
    reward, *_ = step(simulator, [0, 1, 2, 3, 0, 1])
    task, control = simulator.task, np.zeros((6, 1), np.float32)
    tensors = [torch.from_numpy(array).reshape(2, 3, -1) for array in (before, control, simulator.features)]
    again, _ = task.reward(*tensors)
    assert again.shape == (2, 3)
    np.testing.assert_allclose(again.numpy().ravel(), reward, rtol=1e-6)
    assert torch.equal(task.terminated(tensors[2]), torch.zeros(2, 3, dtype=torch.bool))
    assert (X, Y, PATH) == (0, 1, 9), "documented columns"
