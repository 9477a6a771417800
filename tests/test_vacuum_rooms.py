"""The vacuum room by room: the process that the drawing means, and a robot that really is where it says."""

import functools
import itertools

import gymnasium
import numpy as np
import pytest
import torch

from gantry.envs.simulator import Simulator, make_simulator
from gantry.envs.tasks.vacuum.plan_file import load_plan
from gantry.envs.tasks.vacuum.rooms import IDLE, REVISIT, RoomMDP, room_mdp, state_number

ID = "gantry/VacuumRooms-v0"
LIVING, KITCHEN, BEDROOM_1, BEDROOM_2 = range(4)
DISCOUNT = 0.95


@functools.cache
def apartment() -> RoomMDP:
    return room_mdp(load_plan("apartment").room_neighbors)


def rooms(n: int = 1, **options) -> Simulator:
    simulator = make_simulator(ID, n, **{"max_episode_steps": None, **options})
    simulator.reset(seed=0)
    return simulator


def optimal_values(process: RoomMDP, discount: float = DISCOUNT) -> np.ndarray:
    """Value iteration: (S, A) values of actions."""
    values = np.zeros(len(process.terminal))
    for _ in range(2000):
        of_actions = process.reward + discount * values[process.next_state]
        new = np.where(process.terminal, 0.0, of_actions.max(axis=1))
        if np.abs(new - values).max() < 1e-12:
            break
        values = new
    return of_actions


def test_fixed_start_levels():
    simulator = rooms(start="fixed")
    assert [room.name for room in simulator.task.plan.rooms] == ["living room", "kitchen", "bedroom 1", "bedroom 2"]
    assert simulator.task.observation(simulator.features)[0].tolist() == [1, 0, 0, 0, 0, 0.5, 0, 1]


def test_room_mdp_transitions_by_hand():
    simulator = rooms(start="fixed")
    expected = [
        (LIVING, LIVING, IDLE, "idle"),
        (KITCHEN, KITCHEN, 1, "cleaned"),
        (BEDROOM_2, KITCHEN, IDLE, "idle"),  # no door leads there from the kitchen
        (LIVING, LIVING, REVISIT, "revisit"),
        (BEDROOM_1, BEDROOM_1, REVISIT, "revisit"),
        (LIVING, LIVING, REVISIT, "revisit"),
        (BEDROOM_2, BEDROOM_2, 2, "cleaned"),
    ]
    for action, room, reward, term in expected:
        got, terms, terminated, _, _ = simulator.transition(np.array([action]))
        assert simulator.features[0, :4].argmax() == room
        assert got == pytest.approx(reward)
        assert {name for name, value in terms.items() if value} == {term}
        assert terminated[0] == (room == BEDROOM_2)
    measures = simulator.task.metrics(simulator.features)
    assert (measures["coverage"][0], measures["success"][0], measures["bumps"][0]) == (1, True, 0)


@pytest.mark.parametrize("plan", ["apartment", "eight_rooms"])
def test_robot_drives_to_neighboring_rooms_without_bumps(plan):
    names = rooms(plan=plan).task.plan.room_neighbors
    pairs = np.argwhere(names)
    simulator = rooms(2 * len(pairs), plan=plan)
    task = simulator.task
    here, there = pairs.repeat(2, axis=0).T
    rng = np.random.default_rng(0)
    start = np.array([rng.choice(np.flatnonzero(task.plan.room == room)) for room in here])
    start[::2] = task.parking[here[::2]]
    task.set_pose(simulator.state, np.arange(len(here)), start, rng.uniform(-4, 4, len(here)))
    bumps = simulator.features[:, task.bumps].copy()
    simulator.transition(there)
    x, y = simulator.state.qpos[:, :2].T
    assert np.array_equal(task.plan.room[task.cell_at(x, y)], there)
    assert np.abs(simulator.state.qpos[:, :2] - task.centers[task.parking[there]]).max() < 0.03
    assert np.abs(simulator.state.qvel[:, :2]).max() < 0.05, "it stands still"
    assert np.array_equal(simulator.features[:, task.bumps], bumps)


def test_simulated_robot_matches_room_mdp_in_every_state():
    """All 4 × 80 states with dirt, each with one action in turn."""
    process = apartment()
    states = np.flatnonzero(~process.terminal)
    simulator = rooms(len(states), observation="discrete")
    task, state = simulator.task, simulator.state
    room, levels = states // 81, (states[:, None] // 3 ** np.arange(4)) % 3
    for first in (0, 1):
        task.set_pose(state, np.arange(len(states)), task.parking[room], np.zeros(len(states)))
        state.userdata[:, task.dirt] = levels
        simulator.features = task.features(state)
        simulator._ended[:] = False
        simulator._some_ended = False
        assert np.array_equal(task.observation(simulator.features), states)
        actions = (states + 2 * first) % 4
        reward, _, terminated, *_ = simulator.transition(actions)
        assert np.array_equal(task.observation(simulator.features), process.next_state[states, actions])
        np.testing.assert_allclose(reward, process.reward[states, actions], atol=1e-6)
        assert np.array_equal(terminated, process.terminal[process.next_state[states, actions]])


def test_room_mdp_state_numbers_are_unique():
    numbers = [
        state_number(room, np.array(levels)) for room in range(4) for levels in itertools.product(range(3), repeat=4)
    ]
    assert sorted(numbers) == list(range(324))
    assert apartment().terminal.sum() == 4


def test_optimal_policy_of_room_mdp_cleans_from_every_state():
    process = apartment()
    of_actions = optimal_values(process)
    best = of_actions.argmax(axis=1)
    for state in np.flatnonzero(~process.terminal):
        steps, here = 0, state
        while not process.terminal[here]:
            here, steps = process.next_state[here, best[here]], steps + 1
            assert steps <= 8
    # Whoever stands in a clean room pays for ever; whoever drives to and fro pays more.
    idle = IDLE / (1 - DISCOUNT)
    assert (of_actions.max(axis=1)[~process.terminal] > idle).all()
    assert 2 * REVISIT < 2 * IDLE


def test_q_learning_matches_value_iteration():
    """Q-learning over the pure process, every state and action in turn."""
    process = apartment()
    table = np.zeros_like(process.reward)
    for _ in range(400):
        ahead = np.where(process.terminal, 0.0, table.max(axis=1))
        table += 0.5 * (process.reward + DISCOUNT * ahead[process.next_state] - table)
    np.testing.assert_allclose(table, optimal_values(process), atol=1e-3)


def test_random_dirt_is_never_empty():
    levels = rooms(300).features[:, 4:8]
    assert (levels.sum(axis=1) > 0).all()
    for level in range(3):
        assert (levels == level).mean() == pytest.approx(1 / 3, abs=0.06)


def test_discrete_observations_are_room_mdp_states():
    env = gymnasium.make(f"gantry:{ID}", observation="discrete", start="fixed")
    observation, _ = env.reset(seed=0)
    assert observation == LIVING * 81 + 1 * 3 + 2 * 27
    assert env.observation_space.n == 324
    observation, *_ = env.step(KITCHEN)
    assert observation == KITCHEN * 81 + 2 * 27


def test_reward_of_torch_tensors():
    simulator = rooms(8)
    before, actions = simulator.features, np.array([0, 1, 2, 3] * 2)
    reward, *_ = simulator.transition(actions)
    tensors = [torch.from_numpy(array) for array in (before, actions[:, None], simulator.features)]
    np.testing.assert_allclose(simulator.task.reward(*tensors)[0].numpy(), reward)
