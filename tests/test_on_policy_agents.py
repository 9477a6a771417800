"""What A2C, recurrent PPO and REINFORCE must hold alike: budgets, repetition, resuming, stopping, saving.

PPO has its own tests.
"""

import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Forgetful, Spot, Switches
from agent_states import parameters, restore, trainer_state

from gantry.agents import agent_class, load_agent, save_agent
from gantry.agents.a2c import A2CConfig
from gantry.agents.ppo import PPOConfig
from gantry.agents.recurrent_ppo import RecurrentPPOConfig
from gantry.agents.reinforce import ReinforceConfig
from gantry.errors import GantryError

AGENTS = {
    "a2c": lambda **more: ("a2c", A2CConfig(report_every=2, **more)),
    "a2c, one body": lambda **more: ("a2c", A2CConfig(report_every=3, shared_body=True, optimizer="adam", **more)),
    "recurrent-ppo": lambda **more: (
        "recurrent-ppo",
        RecurrentPPOConfig(rollout_steps=6, minibatch_size=48, epochs=1, memory_size=8, hidden_sizes=(16,), **more),
    ),
    "reinforce": lambda **more: ("reinforce", ReinforceConfig(episodes=20, **more)),
    "reinforce, no value": lambda **more: ("reinforce", ReinforceConfig(episodes=16, baseline="mean", **more)),
}
each_agent = pytest.mark.parametrize("kind", AGENTS)
each_mode = pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP], ids=str)


def make(kind, env, seed=0, **settings):
    name, config = AGENTS[kind](**settings)
    return agent_class(name)(env, config, seed=seed)


@each_agent
@each_mode
@pytest.mark.parametrize("total", [1, 17, 503])
def test_exactly_the_budget_is_used(kind, mode, total):
    agent, last = make(kind, Spot(mode=mode)), []
    agent.learn(total, lambda _, row: last.append(row["steps"]))
    assert agent.steps == total == last[-1]
    agent.learn(total)
    assert agent.steps == total


@each_agent
def test_two_runs_of_one_seed_are_identical_and_of_two_seeds_not(kind):
    runs = []
    for seed in (0, 0, 1):
        agent, rows = make(kind, Spot(), seed), []
        agent.learn(800, lambda _, row, rows=rows: rows.append(row))
        runs.append((repr(rows), parameters(agent)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1], runs[2][1])


@each_agent
@pytest.mark.parametrize(
    ("mode", "squash"),
    [
        (SAME_STEP, False),
        (NEXT_STEP, True),
        pytest.param(SAME_STEP, True, marks=pytest.mark.slow),
        pytest.param(NEXT_STEP, False, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_resumed_run_gives_the_same_numbers(kind, mode, squash):
    settings = {"squash_actions": squash, "learning_rate_schedule": "linear"}
    whole, expected = make(kind, Spot(mode=mode), 5, **settings), []
    whole.learn(1_200, lambda _, row: expected.append(row))
    first, rows = make(kind, Spot(mode=mode), 5, **settings), []
    first.learn(1_200, lambda _, row: rows.append(row) or len(rows) < 4)
    second = make(kind, Spot(mode=mode), 77, **settings)
    restore(second, trainer_state(first))
    second.learn(1_200, lambda _, row: rows.append(row))
    assert repr(rows) == repr(expected)
    assert torch.equal(parameters(second), parameters(whole))


@each_agent
def test_an_interrupt_leaves_the_last_whole_update(kind):
    whole = make(kind, Spot())
    whole.learn(1_500)
    env = Spot()
    env.fail_at = 33
    agent, seen = make(kind, env), []
    with pytest.raises(KeyboardInterrupt):
        agent.learn(1_500, lambda agent, _: seen.append((agent.steps, parameters(agent))))
    assert agent.steps == seen[-1][0]
    assert torch.equal(parameters(agent), seen[-1][1])
    agent.learn(1_500)
    assert torch.equal(parameters(agent), parameters(whole))


@each_agent
def test_without_environment_state_new_episodes_begin(kind):
    agent = make(kind, Forgetful())
    agent.learn(300)
    other = make(kind, Forgetful())
    restore(other, trainer_state(agent))
    assert torch.equal(parameters(other), parameters(agent))
    lengths = []
    other.learn(600, lambda _, row: lengths.append(row["length_mean"]))
    assert other.steps == 600
    assert lengths[-1] == 5.0


@each_agent
def test_not_a_number_stops_learning_and_keeps_the_good_policy(kind):
    env = Spot()
    env.poison_at = 40
    agent, seen = make(kind, env), []
    with pytest.raises(GantryError, match="NaN or infinite") as caught:
        agent.learn(2_000, lambda agent, _: seen.append(parameters(agent)))
    assert "\n" not in str(caught.value)
    assert torch.equal(parameters(agent), seen[-1])
    assert torch.isfinite(parameters(agent)).all()


@each_agent
def test_an_infinite_observation_stops_learning_before_the_normalizer_sees_it(kind):
    env, calls = Spot(), iter(range(10**9))
    observe = env._observe
    env._observe = lambda: np.where(next(calls) == 400, np.inf, observe()).astype(np.float32)
    agent, seen = make(kind, env), []
    with pytest.raises(
        GantryError, match=r"observations that are NaN or infinite .*as it was after [1-9][0-9,]* steps$"
    ) as caught:
        agent.learn(4_000, lambda agent, _: seen.append(parameters(agent)))
    assert "\n" not in str(caught.value)
    assert torch.equal(parameters(agent), seen[-1])
    env, calls = Spot(), iter(range(10**9))
    env._observe = lambda: np.full((16, 2), np.nan if next(calls) > 3 else 0.0, np.float32)
    with pytest.raises(GantryError, match="before it had learned anything"):
        make(kind, env).learn(4_000)


@each_agent
def test_saved_and_loaded_it_acts_the_same_and_learns_on(kind, tmp_path):
    agent = make(kind, Spot(), squash_actions=True)
    agent.learn(400)
    save_agent(agent, tmp_path)
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    loaded = load_agent(tmp_path, env=Spot(8))
    np.testing.assert_array_equal(loaded.act(observations), agent.act(observations))
    assert torch.equal(parameters(loaded), parameters(agent))
    loaded.learn(700)
    assert loaded.steps == 700


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kind", ["a2c", "a2c, one body", "recurrent-ppo", "reinforce", "ppo"])
def test_several_discrete_actions_are_learned_saved_and_loaded(kind, binary, tmp_path):
    env = Switches(binary)
    faster = {"learning_rate": 3e-2, "entropy_coefficient": 1e-3, "normalize_observation": False}
    if kind == "ppo":
        agent = agent_class("ppo")(env, PPOConfig(rollout_steps=8, minibatch_size=64, **faster))
    else:
        agent = make(kind, env, **faster)
    agent.learn(2_000)
    np.testing.assert_array_equal(agent.act(np.ones((2, 1))), [env.wanted, env.wanted])
    assert agent.act(np.ones(1), deterministic=False) in env.single_action_space
    save_agent(agent, tmp_path)
    loaded = load_agent(tmp_path, env=Switches(binary))
    assert torch.equal(parameters(loaded), parameters(agent))
    np.testing.assert_array_equal(loaded.act(np.ones(1)), env.wanted)


@each_agent
def test_squashed_actions_stay_within_bounds_and_need_them(kind):
    agent = make(kind, Spot(), squash_actions=True)
    assert (np.abs(agent.act(np.full((200, 2), 1e3), deterministic=False)) <= 1.0).all()
    unbounded = Spot()
    unbounded.single_action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    with pytest.raises(GantryError, match="squash_actions"):
        make(kind, unbounded, squash_actions=True)


@each_agent
def test_in_their_own_units_actions_are_what_the_network_says(kind, tmp_path):
    wide = Spot()
    wide.single_action_space = gymnasium.spaces.Box(-3.0, 3.0, (1,), np.float32)
    agent = make(kind, wide, action_scaling="none", normalize_observation=False)
    agent.learn(400)
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    with torch.no_grad():
        seen = torch.from_numpy(observations)
        if kind == "recurrent-ppo":
            seen, _ = agent.policy.remember(seen, agent.policy.nothing(50))
        said = agent.policy.network(seen).numpy()
    acted = agent.act(observations)
    np.testing.assert_allclose(acted, np.clip(said, -3, 3), rtol=1e-6)
    save_agent(agent, tmp_path)
    np.testing.assert_array_equal(load_agent(tmp_path).act(observations), acted)
    with pytest.raises(GantryError, match="action_scaling must be bounds with squash_actions"):
        make(kind, wide, action_scaling="none", squash_actions=True)
