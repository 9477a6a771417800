"""The replay buffer against plain lists of episodes."""

import numpy as np
import pytest
import torch

from gantry.agents.ladder.stepping import Transition
from gantry.agents.parts.replay import ReplayBuffer
from gantry.errors import GantryError

N, D, A, GAMMA = 3, 2, 1, 0.9


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_steps(count, seed=0, ends=0.2, left_out=0.1):
    """`count` vector steps whose numbers tell them apart: arguments of `ReplayBuffer.add`."""
    random = np.random.default_rng(seed)
    observation = random.normal(size=(N, D)).astype(np.float32)
    steps = []
    for _ in range(count):
        after = random.normal(size=(N, D)).astype(np.float32)
        done, counted = random.random(N) < ends, random.random(N) >= left_out
        done &= counted
        terminated = done & (random.random(N) < 0.5)
        rows = np.flatnonzero(done)
        final = random.normal(size=(len(rows), D)).astype(np.float32)
        rewards = random.normal(size=N).astype(np.float32)
        transition = Transition(rewards, terminated, done, rows, final, None)
        actions = random.normal(size=(N, A)).astype(np.float32)
        steps.append((observation, actions, transition, after, None if counted.all() else counted))
        observation = after
    return steps


def expected_rows(steps, slots, n_step):
    """What a buffer should hold after `steps`, {row: (observation, action, next observation, return, discount)}."""
    rows = {}
    for time in range(max(0, len(steps) - slots), len(steps)):
        for env in range(N):
            observations, actions, _, _, counted = steps[time]
            if counted is not None and not counted[env]:
                continue
            total, discount = 0.0, 1.0
            for later in range(time, min(time + n_step, len(steps))):
                _, _, transition, after, counted = steps[later]
                if counted is not None and not counted[env]:
                    break
                total += discount * transition.rewards[env]
                discount *= GAMMA
                next_observation = after[env]
                if transition.done[env]:
                    next_observation = transition.final_observations[list(transition.final_rows).index(env)]
                    discount *= not transition.terminated[env]
                    break
            row = (time % slots) * N + env
            rows[row] = (*observations[env], *actions[env], *next_observation, total, discount)
    return rows


def held(buffer):
    """The same of a buffer."""
    rows = np.flatnonzero(buffer.valid[: buffer.filled])
    return dict(zip(rows.tolist(), buffer.gather(torch.from_numpy(rows)).table.numpy(), strict=True))


def fill(buffer, steps):
    for step in steps:
        buffer.add(*step)
    return buffer


def assert_same(buffer, expected):
    found = held(buffer)
    assert set(found) == set(expected)
    assert len(buffer) == len(expected)
    for row, numbers in expected.items():
        np.testing.assert_allclose(found[row], numbers, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 4, 6, 7, 8, 29])
def test_it_holds_what_a_plain_list_holds_also_after_wrapping_around(n_step, count):
    steps = random_steps(count)
    buffer = fill(ReplayBuffer(7 * N + 1, N, D, A, GAMMA, n_step), steps)
    assert buffer.slots == 7
    assert_same(buffer, expected_rows(steps, 7, n_step))


def test_a_truncation_bootstraps_with_the_power_of_gamma_and_a_termination_does_not():
    buffer = ReplayBuffer(30, 1, 1, 1, GAMMA, n_step=3)
    for time in range(4):  # row 0 of rewards 1, 2, 4, 8 ends with the fourth step
        done, final = np.array([time == 3]), np.array([[99.0]], np.float32)
        transition = Transition(
            np.array([2.0**time], np.float32),
            np.array([False]),
            done,
            np.flatnonzero(done),
            final[: int(done[0])],
            None,
        )
        buffer.add(np.full((1, 1), time), np.zeros((1, 1)), transition, np.full((1, 1), time + 1.0))
    batch = buffer.gather(torch.arange(4))
    torch.testing.assert_close(
        batch.reward, torch.tensor([1 + 0.9 * 2 + 0.81 * 4, 2 + 0.9 * 4 + 0.81 * 8, 4 + 0.9 * 8, 8.0])
    )
    torch.testing.assert_close(batch.discount, torch.tensor([0.9**3, 0.9**3, 0.9**2, 0.9]))
    assert batch.next_observation[:, 0].tolist() == [3.0, 99.0, 99.0, 99.0]


def test_columns_are_views_of_one_table():
    buffer = fill(ReplayBuffer(30, N, D, A, GAMMA), random_steps(5, left_out=0.0))
    batch = buffer.gather(torch.tensor([3, 3, 14]))
    assert torch.equal(batch.observation_action, torch.cat([batch.observation, batch.action], 1))
    batch.next_observation.zero_()
    assert (batch.table[:, D + A : 2 * D + A] == 0).all()
    assert (buffer.gather(torch.tensor([3])).next_observation != 0).all()  # and copies of what is held


def test_draws_are_uniform_over_transitions_alone():
    buffer = fill(ReplayBuffer(7 * N, N, D, A, GAMMA), random_steps(40, left_out=0.3))
    rows = buffer.sample(200_000, generator()).numpy()
    counts = np.bincount(rows, minlength=7 * N)
    valid = buffer.valid.reshape(-1)
    assert 0 < valid.sum() < 7 * N
    assert (counts[~valid] == 0).all()
    share = len(rows) / valid.sum()
    assert (np.abs(counts[valid] - share) < 5 * share**0.5).all()
    assert torch.equal(buffer.sample(9, generator(3)), buffer.sample(9, generator(3)))


@pytest.mark.parametrize("count", [3, 7, 23])
def test_the_last_step_of_each_rows_episode_is_known(count):
    steps = random_steps(count, seed=count)
    buffer = fill(ReplayBuffer(7 * N, N, D, A, GAMMA), steps)
    rows = np.flatnonzero(buffer.valid[: buffer.filled])
    times, last = buffer.last_times(rows)
    for row, time, end in zip(rows, times, last, strict=True):
        assert time % 7 == row // N
        assert count - 7 <= time < count
        expected = time
        while not steps[expected][2].done[row % N] and expected + 1 < count:
            following = steps[expected + 1][4]
            if following is not None and not following[row % N]:
                break
            expected += 1
        assert end == expected
    np.testing.assert_array_equal(buffer.rows_at(times, rows % N), rows)


def test_broken_episodes_are_not_joined_to_what_follows():
    steps = random_steps(6, ends=0.0, left_out=0.0)
    buffer = fill(ReplayBuffer(30, N, D, A, GAMMA, n_step=3), steps[:4])
    buffer.break_episodes()
    fill(buffer, steps[4:])
    assert_same(
        buffer,
        expected_rows(steps[:4], 10, 3)
        | {row + 4 * N: numbers for row, numbers in expected_rows(steps[4:], 10, 3).items()},
    )
    _, last = buffer.last_times(np.arange(6 * N))
    assert last.reshape(6, N)[:, 0].tolist() == [3, 3, 3, 3, 5, 5]


@pytest.mark.parametrize("n_step", [1, 4])
@pytest.mark.parametrize(("before", "block"), [(0, 3), (2, 3), (5, 4), (20, 6), (20, 17)])
def test_rolling_back_undoes_a_block_exactly(n_step, before, block):
    steps = random_steps(before + 2 * block)
    buffer = fill(ReplayBuffer(7 * N, N, D, A, GAMMA, n_step), steps[:before])
    twin = fill(ReplayBuffer(7 * N, N, D, A, GAMMA, n_step), steps[:before])
    buffer.mark()
    fill(buffer, steps[before : before + block])
    buffer.rollback()
    fill(buffer, steps[before + block : before + block + 1])  # and after rolling back, another block
    buffer.rollback()
    assert_same(buffer, expected_rows(steps[:before], 7, n_step))
    rows = np.arange(buffer.filled * N)
    for mine, theirs in zip(buffer.last_times(rows), twin.last_times(rows), strict=True):
        np.testing.assert_array_equal(mine[buffer.valid.reshape(-1)[rows]], theirs[twin.valid.reshape(-1)[rows]])
    for one in (buffer, twin):
        fill(one, steps[before:])
    assert torch.equal(buffer.table[: buffer.filled], twin.table[: twin.filled])


@pytest.mark.parametrize("count", [0, 3, 18])
def test_a_restored_buffer_goes_on_the_same_and_only_the_filled_part_is_saved(count):
    steps = random_steps(count + 9)
    buffer = fill(ReplayBuffer(7 * N, N, D, A, GAMMA, 3), steps[:count])
    tensors, meta = buffer.state()
    assert len(tensors["table"]) == min(count, 7)
    other = ReplayBuffer(7 * N, N, D, A, GAMMA, 3)
    other.load_state(tensors, meta)
    for one in (buffer, other):
        fill(one, steps[count:])
    assert torch.equal(buffer.table, other.table)
    assert torch.equal(buffer.sample(50, generator()), other.sample(50, generator()))
    rows = np.flatnonzero(buffer.valid)
    np.testing.assert_array_equal(buffer.last_times(rows), other.last_times(rows))


def test_a_state_of_another_size_is_refused():
    buffer = fill(ReplayBuffer(7 * N, N, D, A, GAMMA), random_steps(9))
    with pytest.raises(ValueError, match="7 vector steps, not 9"):
        ReplayBuffer(10 * N, N, D, A, GAMMA).load_state(*buffer.state())


def test_a_capacity_below_a_return_is_refused():
    with pytest.raises(GantryError, match="at least 15"):
        ReplayBuffer(14, N, D, A, GAMMA, n_step=5)
