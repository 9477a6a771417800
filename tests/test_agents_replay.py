"""The replay buffer against plain lists of episodes."""

import numpy as np
import pytest
import torch

from gantry.agents.parts.replay import ReplayBuffer
from gantry.agents.parts.vector_stepper import Transition
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
        done, mask = random.random(N) < ends, random.random(N) >= left_out
        done &= mask
        terminated = done & (random.random(N) < 0.5)
        envs = np.flatnonzero(done)
        final = random.normal(size=(len(envs), D)).astype(np.float32)
        rewards = random.normal(size=N).astype(np.float32)
        transition = Transition(rewards, terminated, done, mask, envs, final)
        actions = random.normal(size=(N, A)).astype(np.float32)
        steps.append((observation, actions, transition, after))
        observation = after
    return steps


def expected_rows(steps, slots, n_step):
    """What a buffer should hold after `steps`, {row: (observation, action, next observation, return, discount)}."""
    rows = {}
    for time in range(max(0, len(steps) - slots), len(steps)):
        for env in range(N):
            observations, actions, transition, _ = steps[time]
            if not transition.mask[env]:
                continue
            total, discount = 0.0, 1.0
            for later in range(time, min(time + n_step, len(steps))):
                _, _, transition, after = steps[later]
                if not transition.mask[env]:
                    break
                total += discount * transition.rewards[env]
                discount *= GAMMA
                next_observation = after[env]
                if transition.done[env]:
                    next_observation = transition.final_observations[list(transition.final_envs).index(env)]
                    discount *= not transition.terminated[env]
                    break
            row = (time % slots) * N + env
            rows[row] = (*observations[env], *actions[env], *next_observation, total, discount)
    return rows


def held(buffer):
    """The same of a buffer."""
    rows = np.flatnonzero(buffer.mask[: buffer.filled])
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
def test_buffer_matches_plain_lists_also_after_wrapping_around(n_step, count):
    steps = random_steps(count)
    buffer = fill(ReplayBuffer(7 * N + 1, N, D, A, GAMMA, n_step), steps)
    assert buffer.slots == 7
    assert_same(buffer, expected_rows(steps, 7, n_step))


def test_n_step_returns_by_hand():
    buffer = ReplayBuffer(30, 1, 1, 1, GAMMA, n_step=3)
    for time in range(4):  # row 0 of rewards 1, 2, 4, 8 ends with the fourth step
        done, final = np.array([time == 3]), np.array([[99.0]], np.float32)
        transition = Transition(
            np.array([2.0**time], np.float32),
            np.array([False]),
            done,
            np.array([True]),
            np.flatnonzero(done),
            final[: int(done[0])],
        )
        buffer.add(np.full((1, 1), time), np.zeros((1, 1)), transition, np.full((1, 1), time + 1.0))
    batch = buffer.gather(torch.arange(4))
    torch.testing.assert_close(
        batch.reward, torch.tensor([1 + 0.9 * 2 + 0.81 * 4, 2 + 0.9 * 4 + 0.81 * 8, 4 + 0.9 * 8, 8.0])
    )
    torch.testing.assert_close(batch.discount, torch.tensor([0.9**3, 0.9**3, 0.9**2, 0.9]))
    assert batch.next_observation[:, 0].tolist() == [3.0, 99.0, 99.0, 99.0]


def test_minibatch_parts_are_views_of_one_table():
    buffer = fill(ReplayBuffer(30, N, D, A, GAMMA), random_steps(5, left_out=0.0))
    batch = buffer.gather(torch.tensor([3, 3, 14]))
    assert torch.equal(batch.observation_action, torch.cat([batch.observation, batch.action], 1))
    batch.next_observation.zero_()
    assert (batch.table[:, D + A : 2 * D + A] == 0).all()
    assert (buffer.gather(torch.tensor([3])).next_observation != 0).all()  # and copies of what is held


def test_sampling_is_uniform_over_transitions_that_count():
    buffer = fill(ReplayBuffer(7 * N, N, D, A, GAMMA), random_steps(40, left_out=0.3))
    rows = buffer.sample(200_000, generator()).numpy()
    counts = np.bincount(rows, minlength=7 * N)
    valid = buffer.mask.reshape(-1)
    assert 0 < valid.sum() < 7 * N
    assert (counts[~valid] == 0).all()
    share = len(rows) / valid.sum()
    assert (np.abs(counts[valid] - share) < 5 * share**0.5).all()
    assert torch.equal(buffer.sample(9, generator(3)), buffer.sample(9, generator(3)))


@pytest.mark.parametrize("count", [3, 7, 23])
def test_last_times_match_plain_lists(count):
    steps = random_steps(count, seed=count)
    buffer = fill(ReplayBuffer(7 * N, N, D, A, GAMMA), steps)
    rows = np.flatnonzero(buffer.mask[: buffer.filled])
    times, last = buffer.last_times(rows)
    for row, time, end in zip(rows, times, last, strict=True):
        assert time % 7 == row // N
        assert count - 7 <= time < count
        expected = time
        while not steps[expected][2].done[row % N] and expected + 1 < count:
            if not steps[expected + 1][2].mask[row % N]:
                break
            expected += 1
        assert end == expected
    np.testing.assert_array_equal(buffer.indices_at(times, rows % N), rows)


def test_broken_episodes_are_not_joined_to_the_next():
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
def test_rollback_is_exact(n_step, before, block):
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
        np.testing.assert_array_equal(mine[buffer.mask.reshape(-1)[rows]], theirs[twin.mask.reshape(-1)[rows]])
    for one in (buffer, twin):
        fill(one, steps[before:])
    assert torch.equal(buffer.table[: buffer.filled], twin.table[: twin.filled])


@pytest.mark.parametrize("count", [0, 3, 18])
def test_restored_buffer_is_the_same_and_only_the_filled_part_is_saved(count):
    steps = random_steps(count + 9)
    buffer = fill(ReplayBuffer(7 * N, N, D, A, GAMMA, 3), steps[:count])
    tensors = buffer.state()
    assert len(tensors["table"]) == min(count, 7)
    other = ReplayBuffer(7 * N, N, D, A, GAMMA, 3)
    other.load_state(tensors)
    for one in (buffer, other):
        fill(one, steps[count:])
    assert torch.equal(buffer.table, other.table)
    assert torch.equal(buffer.sample(50, generator()), other.sample(50, generator()))
    rows = np.flatnonzero(buffer.mask)
    np.testing.assert_array_equal(buffer.last_times(rows), other.last_times(rows))


def test_state_of_another_size_is_refused():
    buffer = fill(ReplayBuffer(7 * N, N, D, A, GAMMA), random_steps(9))
    with pytest.raises(ValueError, match="7 vector steps, not 9"):
        ReplayBuffer(10 * N, N, D, A, GAMMA).load_state(buffer.state())


def test_capacity_below_a_return_is_refused():
    with pytest.raises(GantryError, match="at least 15"):
        ReplayBuffer(14, N, D, A, GAMMA, n_step=5)


def test_transitions_that_are_not_finite_are_refused_unless_masked():
    observation, actions, transition, after = random_steps(1)[0]
    for mask, refused in (([False, True, True], False), ([True, True, True], True)):
        transition.mask = np.array(mask)
        transition.rewards[0] = np.nan
        buffer = ReplayBuffer(7 * N, N, D, A, GAMMA)
        if not refused:
            buffer.add(observation, actions, transition, after)
            continue
        with pytest.raises(GantryError, match="NaN or infinite"):
            buffer.add(observation, actions, transition, after)
