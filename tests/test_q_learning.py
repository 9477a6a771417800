import math

import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import DISABLED, NEXT_STEP, SAME_STEP, Spot
from agent_states import opened, parameters, restore, trainer_state
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from toy_text import toy_text_mdp

from gantry.agents import load_agent, save_agent
from gantry.agents.q_learning import (
    QLearning,
    QLearningConfig,
    Transitions,
    epsilon_greedy,
    move_cells,
    next_values,
    occurrence_numbers,
)
from gantry.errors import GantryError
from gantry.machine import memory
from gantry.optimal_control.value_iteration import FiniteMDP, reachable_states, value_iteration


class Finite(VectorEnv):
    """A process as a vector environment; outcomes are sampled from a counted stream, so that it can be resumed."""

    def __init__(self, process, num_envs=8, limit=20, mode=SAME_STEP, start=0, offset=0):
        self.process, self.num_envs, self.limit, self.mode, self.start = process, num_envs, limit, mode, start
        states, actions = process.next_state.shape[:2]
        self.metadata = {"autoreset_mode": mode}
        self.single_observation_space = gymnasium.spaces.Discrete(states, start=offset)
        self.single_action_space = gymnasium.spaces.Discrete(actions, start=offset)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.offset = offset
        self.poison_at = None

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if seed is not None:
            self.seed, self.calls = seed, 0
            self.states, self.times = np.zeros(self.num_envs, int), np.zeros(self.num_envs, int)
            self.waiting = np.zeros(self.num_envs, bool)
        self.states[mask], self.times[mask] = self.start, 0
        return self.states + self.offset, {}

    def step(self, actions):
        self.calls += 1
        place = self.states, actions - self.offset
        chance = np.random.default_rng((self.seed, self.calls)).random((self.num_envs, 1))
        outcome = (chance > self.process.probability[place].cumsum(axis=1)).sum(axis=1)
        rewards = self.process.reward[(*place, outcome)].copy()
        terminated = self.process.terminated[(*place, outcome)]
        following = self.process.next_state[(*place, outcome)]
        self.times += 1
        waiting, self.waiting = self.waiting, np.zeros(self.num_envs, bool)
        truncated = ~terminated & (self.times >= self.limit)
        for array in (rewards, terminated, truncated):
            array[waiting] = 0
        self.states = np.where(waiting, self.start, following)
        self.times[waiting] = 0
        if self.poison_at == self.calls:
            rewards[0] = np.nan
        ended, infos = terminated | truncated, {}
        if self.mode == SAME_STEP and ended.any():
            infos = {"final_obs": self.states + self.offset, "_final_obs": ended}
            self.reset(options={"reset_mask": ended})
        if self.mode == NEXT_STEP:
            self.waiting = ended
        return self.states + self.offset, rewards, terminated, truncated, infos

    def get_state(self):
        return {name: np.array(getattr(self, name)) for name in ("seed", "calls", "states", "times", "waiting")}

    def set_state(self, state):
        self.seed, self.calls = int(state["seed"]), int(state["calls"])
        self.states, self.times, self.waiting = (state[name].copy() for name in ("states", "times", "waiting"))


def random_process(seed=0, states=6, actions=3):
    rng = np.random.default_rng(seed)
    shape = (states, actions, 2)
    return FiniteMDP(
        rng.integers(states, size=shape),
        rng.normal(size=shape),
        rng.random(shape) < 0.15,
        rng.dirichlet(np.ones(2), shape[:2]),
    )


def histories(agent, total):
    rows = []
    agent.learn(total, lambda _, row: rows.append(row))
    return rows


def transitions(states, actions, rewards, next_states, terminated, next_actions=None):
    return Transitions(
        np.array(states),
        np.array(actions),
        np.array(rewards, float),
        np.array(next_states),
        np.array(terminated, bool),
        None if next_actions is None else np.array(next_actions),
    )


def fresh(table, **settings):
    """An agent of two environments that learns from hand-made transitions, beginning with a table (S, A), or two."""
    table = np.array(table, float)
    tables = table if table.ndim == 3 else table[None]
    process = random_process(states=tables.shape[1], actions=tables.shape[2])
    agent = QLearning(Finite(process, 2), QLearningConfig(gamma=0.5, **settings))
    agent.q.values[:] = tables
    return agent


TABLE = [[1.0, 2.0], [4.0, 3.0], [6.0, 8.0]]


# Updates


def test_q_learning_update_by_hand():
    agent = fresh(TABLE, learning_rate_start=0.25)
    agent.update(transitions([0, 1], [1, 0], [10, 1], [1, 2], [False, True]), np.array([0, 0]), 0.0)
    # 2 + ¼ (10 + ½ · 4 - 2), and after a termination 4 + ¼ (1 - 4)
    assert agent.table.tolist() == [[1.0, 4.5], [3.25, 3.0], [6.0, 8.0]]


def test_sarsa_update_by_hand():
    agent = fresh(TABLE, learning_rate_start=0.25, rule="sarsa")
    agent.update(transitions([0], [1], [10], [1], [False], [1]), np.array([0]), 0.0)
    assert agent.table[0, 1] == 2 + 0.25 * (10 + 0.5 * 3 - 2)


def test_double_q_learning_update_by_hand():
    tables = np.array([[[0, 0], [5, 1]], [[0, 0], [2, 7]]], float)
    agent = fresh(tables, learning_rate_start=0.5, rule="double")
    agent.update(transitions([0, 0], [0, 1], [1, 1], [1, 1], [False, False]), np.array([0, 1]), 0.0)
    # Table 0 thinks action 0 best, which table 1 values 2; table 1 thinks action 1 best, which table 0 values 1.
    assert agent.q.values[0, 0].tolist() == [0.5 * (1 + 0.5 * 2), 0.0]
    assert agent.q.values[1, 0].tolist() == [0.0, 0.5 * (1 + 0.5 * 1)]
    assert agent.table[1].tolist() == [3.5, 4.0]


def test_next_values_by_hand():
    table = np.array([TABLE])
    assert next_values(table, np.array([0, 0]), np.array([1, 2])).tolist() == [4, 8]
    assert next_values(table, np.array([0, 0]), np.array([1, 2]), np.array([1, 0])).tolist() == [3, 6]


def test_move_cells_with_repeats_matches_mean_over_update_orders():
    values = np.array([2.0, 5.0, -1.0])
    move_cells(values, np.array([1, 1, 0]), np.array([9.0, 1.0, 4.0]), np.array([0.5, 0.5, 0.25]))
    orders = [0.5 * (0.5 * (5 + a) + b) for a, b in ((9, 1), (1, 9))]
    assert values.tolist() == [2.5, np.mean(orders), -1.0]


def test_visits_schedule_averages_all_targets():
    targets = np.random.default_rng(0).normal(size=24)
    for sizes in ([24], [1] * 24, [5, 1, 7, 11]):
        agent = fresh([[9.0]], learning_rate_schedule="visits")
        for part in np.split(targets, np.cumsum(sizes)[:-1]):
            zeros = np.zeros(len(part), int)
            agent.update(transitions(zeros, zeros, part, zeros, zeros + 1), zeros, 0.0)
        assert agent.table[0, 0] == pytest.approx(targets.mean())
        assert agent.visits.tolist() == [[24]]


def test_move_cells_is_independent_of_order():
    rng = np.random.default_rng(1)
    cells, targets = rng.integers(3, size=40), rng.normal(size=40)
    results = []
    for order in (np.arange(40), rng.permutation(40)):
        values = np.array([1.0, 2.0, 3.0])
        move_cells(values, cells[order], targets[order], np.full(40, 0.1))
        results.append(values)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-12)


def test_occurrence_numbers_by_hand():
    assert occurrence_numbers(np.array([7, 3, 7, 7, 3, 0])).tolist() == [1, 1, 2, 3, 2, 1]
    assert occurrence_numbers(np.array([], np.int64)).tolist() == []


def test_q_learning_matches_naive_loop():
    """Every rule, step by step, against a table that is kept by the textbook's formula."""
    process = random_process()
    agent = QLearning(
        Finite(process, 1, limit=7), QLearningConfig(report_steps=1, gamma=0.8, epsilon_schedule="constant")
    )
    expected, step = np.zeros((6, 3)), agent.stepper.step
    seen = {}

    def recording(actions, budget):
        seen["before"] = int(agent.stepper.observation.argmax())
        transition = step(actions, budget)
        after = transition.final_observations if transition.done[0] else agent.stepper.observation
        seen.update(
            action=int(actions[0]),
            reward=float(transition.rewards[0]),
            after=int(after.argmax()),
            terminated=bool(transition.terminated[0]),
        )
        return transition

    agent.stepper.step = recording
    truncations = []

    def compare(agent, _):
        ahead = 0.0 if seen["terminated"] else expected[seen["after"]].max()
        cell = seen["before"], seen["action"]
        expected[cell] += 0.1 * (seen["reward"] + 0.8 * ahead - expected[cell])
        np.testing.assert_allclose(agent.table, expected, atol=1e-12)
        truncations.append(not seen["terminated"] and agent.env.times[0] == 0)

    agent.learn(400, compare)
    assert any(truncations)


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP, DISABLED], ids=str)
@pytest.mark.parametrize("terminal", [False, True])
def test_truncation_bootstraps_and_termination_does_not(mode, terminal):
    """From state 0 one gets to state 1, which pays 1 and keeps one there; only the time limit leads back."""
    one = np.ones((2, 1, 1))
    process = FiniteMDP(one.astype(int), np.array([[[0.0]], [[1.0]]]), np.full((2, 1, 1), False), one)
    if terminal:
        process.terminated[1] = True
    config = QLearningConfig(gamma=0.5, learning_rate_start=1.0, report_steps=4)
    agent = QLearning(Finite(process, 3, limit=3, mode=mode), config)
    agent.learn(600)
    assert agent.table.ravel() == pytest.approx([0.5, 1.0] if terminal else [1.0, 2.0])


# Exploring, schedules


def test_epsilon_greedy_frequencies():
    values = np.tile([1.0, 3.0, 3.0, 0.0], (40_000, 1))
    noise = np.random.default_rng(0).random((40_000, 5))
    shares = np.bincount(epsilon_greedy(values, 0.0, noise), minlength=4) / 40_000
    assert shares == pytest.approx([0, 0.5, 0.5, 0], abs=0.01)
    shares = np.bincount(epsilon_greedy(values, 0.4, noise), minlength=4) / 40_000
    assert shares == pytest.approx([0.1, 0.4, 0.4, 0.1], abs=0.01)


def test_schedules_of_learning_rate_and_exploration():
    config = QLearningConfig(
        learning_rate_schedule="exponential", learning_rate_start=1.0, learning_rate_end=0.01,
        epsilon_start=0.8, epsilon_end=0.2, epsilon_fraction=0.5,
    )  # fmt: skip
    assert config.learning_rate_at(0.5, np.array([3, 9])) == pytest.approx([0.1, 0.1])
    assert [config.epsilon_at(progress) for progress in (0, 0.25, 0.5, 1)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    counted = QLearningConfig(learning_rate_schedule="visits", visit_power=0.5)
    assert counted.learning_rate_at(0.5, np.array([1, 4, 100])) == pytest.approx([1.0, 0.5, 0.1])


def test_optimistic_initial_value_explores():
    tried = {}
    for first in (0.0, 5.0):
        process = random_process(states=1)
        process.reward[:] = np.array([1.0, 2.0, 0.5])[None, :, None]
        config = QLearningConfig(epsilon_start=0.0, epsilon_end=0.0, gamma=0.0, initial_value=first, num_envs=1)
        agent = QLearning(Finite(process, 1), config)
        agent.learn(300)
        tried[first] = agent.visits[0]
    assert (tried[5.0] > 0).all()
    assert tried[5.0].argmax() == 1
    assert np.count_nonzero(tried[0.0]) == 1


# Learning


@pytest.mark.parametrize("rule", ["q-learning", "double"])
def test_values_converge_to_value_iteration(rule):
    process = random_process()
    exact = value_iteration(process, 0.8)
    config = QLearningConfig(
        gamma=0.8, rule=rule, epsilon_schedule="constant", learning_rate_schedule="visits",
        visit_power=0.7,
    )  # fmt: skip
    agent = QLearning(Finite(process, 256), config, seed=1)
    agent.learn(300_000)
    np.testing.assert_allclose(agent.table, exact, atol=0.03 * np.abs(exact).max())


def test_sarsa_converges_to_policy_values():
    """With ε = 1 that is the random policy, whose values solve linear equations."""
    process = random_process(2)
    config = QLearningConfig(gamma=0.8, rule="sarsa", epsilon_schedule="constant", learning_rate_schedule="visits",
                             visit_power=0.85)  # fmt: skip
    agent = QLearning(Finite(process, 256), config)
    agent.learn(300_000)
    goes_on = process.probability * ~process.terminated
    transition = np.zeros((6, 3, 6))
    for outcome in range(2):
        place = np.arange(6)[:, None], np.arange(3)[None], process.next_state[..., outcome]
        np.add.at(transition, place, goes_on[..., outcome])
    reward = (process.probability * process.reward).sum(axis=2)
    state_values = np.linalg.solve(np.eye(6) - 0.8 * transition.mean(axis=1), reward.mean(axis=1))
    expected = reward + 0.8 * transition @ state_values
    np.testing.assert_allclose(agent.table, expected, atol=0.04 * np.abs(expected).max())


def test_replay_needs_fewer_steps():
    process = toy_text_mdp(gymnasium.make("FrozenLake-v1", is_slippery=False, map_name="8x8"))
    exact, seen = value_iteration(process, 0.95), reachable_states(process, np.array([0]))
    errors = []
    for replay in (0, 5):
        config = QLearningConfig(
            gamma=0.95, learning_rate_start=1.0, initial_value=1.0, epsilon_start=0.1, epsilon_end=0.1,
            replay_batches=replay,
        )  # fmt: skip
        agent = QLearning(Finite(process, 16, limit=200), config)
        agent.learn(6_000)
        errors.append(np.abs(agent.table - exact)[seen].max())
    assert errors[1] < 1e-3 < errors[0]


def test_frozen_lake_is_solved():
    agent = QLearning(opened("FrozenLake-v1", 16, is_slippery=False), QLearningConfig(initial_value=1.0))
    agent.learn(6_000)
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    observation, _ = env.reset(seed=5)
    rewards = []
    for _ in range(6):
        observation, reward, terminated, *_ = env.step(int(agent.act(observation)))
        rewards.append(reward)
    assert rewards == [0, 0, 0, 0, 0, 1]
    assert terminated


def test_discrete_spaces_with_an_offset():
    process = random_process()
    agents = []
    for offset in (0, 3):
        agents.append(QLearning(Finite(process, offset=offset), QLearningConfig()))
        agents[-1].learn(1_000)
    assert np.array_equal(agents[0].table, agents[1].table)
    assert agents[1].act(np.arange(3, 9)).tolist() == (agents[0].act(np.arange(6)) + 3).tolist()
    assert agents[1].action_values(4).tolist() == agents[0].table[1].tolist()


# Exactness


def settings(rule):
    return QLearningConfig(
        num_envs=8, rule=rule, report_steps=5, gamma=0.9, learning_rate_schedule="visits", visit_power=0.8,
        replay_batches=0 if rule == "sarsa" else 2, replay_batch_size=8, replay_capacity=100,
    )  # fmt: skip


RULES = ["q-learning", "double", "sarsa"]


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP], ids=str)
@pytest.mark.parametrize("total", [1, 7, 8, 9, 403])
def test_budget_is_exact(mode, total):
    agent = QLearning(Finite(random_process(), mode=mode), settings("q-learning"))
    agent.learn(total)
    assert agent.steps == total == agent.visits.sum()


@pytest.mark.parametrize("rule", RULES)
def test_same_seed_same_bytes(rule):
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(runs))
        np.random.seed(len(runs))  # noqa: NPY002
        agent = QLearning(Finite(random_process()), settings(rule), seed=seed)
        runs.append((repr(histories(agent, 600)), agent.q.values.tobytes()))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP], ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_resume_matches_uninterrupted_run(mode, rule):
    whole = QLearning(Finite(random_process(), mode=mode), settings(rule), seed=5)
    expected = histories(whole, 900)
    first, rows = QLearning(Finite(random_process(), mode=mode), settings(rule), seed=5), []
    first.learn(900, lambda _, row: rows.append(row) or len(rows) < 9)
    second = QLearning(Finite(random_process(), mode=mode), settings(rule), seed=77)
    restore(second, trainer_state(first))
    rows += histories(second, 900)
    assert repr(rows) == repr(expected)
    assert torch.equal(parameters(second), parameters(whole))
    assert second.visits.tobytes() == whole.visits.tobytes()


def test_acting_does_not_change_learning():
    agents = [QLearning(Finite(random_process()), settings("q-learning")) for _ in range(2)]
    agents[0].learn(500)
    agents[1].learn(500, lambda agent, _: agent.act(np.arange(6), deterministic=False) is None)
    agents[1].learn(500, lambda agent, _: bool(agent.act(np.arange(6), deterministic=False).any()) or True)
    assert agents[0].q.values.tobytes() == agents[1].q.values.tobytes()


@pytest.mark.parametrize("rule", RULES)
def test_nan_reward_stops_learning_and_keeps_last_table(rule):
    env = Finite(random_process())
    env.poison_at = 33
    agent, seen = QLearning(env, settings(rule)), []
    with pytest.raises(GantryError, match="NaN or infinite") as caught:
        agent.learn(2_000, lambda agent, _: seen.append(agent.q.values.copy()))
    assert "\n" not in str(caught.value)
    assert agent.steps == 240
    assert np.array_equal(agent.q.values, seen[-1])
    assert np.isfinite(agent.q.values).all()


# Saving, and what is refused


@pytest.mark.parametrize("rule", RULES)
def test_save_and_load_keep_actions(rule, tmp_path):
    agent = QLearning(Finite(random_process()), settings(rule))
    agent.learn(500)
    save_agent(agent, tmp_path)
    loaded = load_agent(tmp_path)
    assert isinstance(loaded, QLearning)
    assert loaded.q.values.tobytes() == agent.q.values.tobytes()
    assert loaded.act(np.arange(6)).tolist() == agent.act(np.arange(6)).tolist() == agent.table.argmax(axis=1).tolist()
    assert loaded.q.epsilon == agent.q.epsilon
    going_on = load_agent(tmp_path, env=Finite(random_process()))
    going_on.learn(700)
    assert going_on.visits.sum() == 700


def test_spaces_without_table_error_names_another_agent():
    for env, other in (
        (Spot(discrete=True), "dqn"),
        (opened("CartPole-v1", 2), "dqn"),
        (opened("gantry/VacuumRooms-v0", 2), "observation=discrete"),
        (opened("Blackjack-v1", 2), "dqn"),
        (opened("gantry/Reach-v0", 2), "not Box"),
    ):
        with pytest.raises(GantryError, match=other) as caught:
            QLearning(env)
        assert "\n" not in str(caught.value)


def test_load_refuses_other_spaces(tmp_path):
    agent = QLearning(Finite(random_process()))
    save_agent(agent, tmp_path)
    with pytest.raises(GantryError, match="observes"):
        load_agent(tmp_path, env=Finite(random_process(states=5)))
    with pytest.raises(GantryError, match="whole number"):
        agent.act(6)


@pytest.mark.parametrize(
    "wrong",
    [{"gamma": 1.5}, {"report_steps": 0}, {"learning_rate_start": 0.0}, {"learning_rate_end": 1.5}, {"visit_power": 0},
     {"epsilon_start": -0.1}, {"epsilon_fraction": 0.0}, {"replay_batches": -1}, {"replay_batch_size": 0},
     {"replay_capacity": 0}, {"gamma": math.nan}, {"rule": "sarsa", "replay_batches": 1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(GantryError, match=list(wrong)[-1]):
        QLearningConfig(**wrong)


def test_metrics_are_complete():
    agent = QLearning(Finite(random_process()), settings("q-learning"))
    rows = histories(agent, 600)
    assert set(rows[0]) == {
        "steps", "episodes", "return_mean", "length_mean", "reward_mean", "success_mean", "epsilon", "learning_rate",
        "td_error", "cells_visited",
    }  # fmt: skip
    assert all(math.isfinite(value) for name, value in rows[-1].items() if name != "success_mean")
    assert rows[-1]["cells_visited"] == np.count_nonzero(agent.visits)


def test_memory_of_replay_is_named_by_its_own_setting(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2.0**33)
    with pytest.raises(GantryError, match=r"replay_capacity \(--config\.replay-capacity\) must be lower"):
        QLearning(opened("FrozenLake-v1", 2), QLearningConfig(replay_batches=1, replay_capacity=10**12))
