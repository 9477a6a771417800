"""Recurrent PPO and its memories: exact gradients through sequences, no look ahead, and a task that needs memory."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Forgetful, Spot
from agent_states import parameters, restore, trainer_state

from gantry.agents import PPO, PPOConfig, RecurrentPPO, RecurrentPPOConfig, load_agent, save_agent
from gantry.agents.parts.episode_memory import make_memory
from gantry.agents.protocol import Attentive, EpisodicActor
from gantry.errors import GantryError
from gantry.runs.environments import open_env
from gantry.runs.evaluate import evaluate_agent

KINDS = ("gru", "lstm", "attention")
each_kind = pytest.mark.parametrize("kind", KINDS)
STEPS, ENVS, INPUTS, SIZE = 12, 5, 3, 8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def memory_of(kind, window=4, layers=1):
    """A memory whose weights are far from their simple beginnings."""
    memory = make_memory(kind, INPUTS, SIZE, window, 2, layers, generator(), "cpu")
    with torch.no_grad():
        for leaf in memory.leaves.values():
            leaf.add_(torch.randn(leaf.shape, generator=generator(1)) * 0.3)
    return memory


def sequence(seed=2):
    """Inputs (T, n, d), and where episodes begin (T, n)."""
    return (
        torch.randn(STEPS, ENVS, INPUTS, generator=generator(seed)),
        torch.rand(STEPS, ENVS, generator=generator(seed + 1)) < 0.2,
    )


def remembered(memory, seed=4):
    """What a memory holds after 7 steps in some environments."""
    carried = torch.zeros(ENVS, memory.size)
    with torch.no_grad():
        for inputs in torch.randn(7, ENVS, INPUTS, generator=generator(seed)):
            carried = memory.step(inputs, carried)[1]
    carried[0] = 0.0
    return carried


def step_by_step(memory, inputs, carried, begins):
    """Outputs (T, n, size) of a loop over environments and steps, one episode after another."""
    columns = []
    for env in range(inputs.shape[1]):
        held, outputs = carried[env : env + 1], []
        for time in range(len(inputs)):
            if begins[time, env]:
                held = torch.zeros_like(held)
            output, held = memory.step(inputs[time, env : env + 1], held)
            outputs.append(output[0])
        columns.append(torch.stack(outputs))
    return torch.stack(columns, 1)


def gradients(memory, outputs):
    weights = torch.randn(outputs.shape, generator=generator(5))
    return dict(zip(memory.leaves, torch.autograd.grad((outputs * weights).sum(), memory.leaves.values()), strict=True))


# Memories


@pytest.mark.parametrize(("kind", "layers"), [("gru", 1), ("lstm", 1), ("attention", 1), ("attention", 3)])
def test_sequence_equals_acting_step_by_step(kind, layers):
    memory = memory_of(kind, layers=layers)
    (inputs, begins), carried = sequence(), remembered(memory)
    with torch.no_grad():
        torch.testing.assert_close(
            memory.sequence(inputs, carried, begins),
            step_by_step(memory, inputs, carried, begins),
            rtol=1e-5,
            atol=2e-6,
        )


@each_kind
def test_gradients_through_sequences_equal_naive_loop_over_episodes(kind):
    memory = memory_of(kind, window=STEPS)
    (inputs, begins), carried = sequence(), remembered(memory)
    if kind == "attention":  # whose gradient is cut at what was kept: so nothing may have been
        carried = torch.zeros_like(carried)
        naive = [
            memory.sequence(inputs[start:end, env : env + 1], carried[:1], begins[start:end, env : env + 1] & False)
            for env in range(ENVS)
            for start, end in episodes(begins[:, env])
        ]
        order = [(env, time) for env in range(ENVS) for time in range(STEPS)]
        flat = torch.cat([part[:, 0] for part in naive])
        expected = torch.stack([flat[order.index((env, time))] for time in range(STEPS) for env in range(ENVS)])
        expected = expected.view(STEPS, ENVS, SIZE)
    else:
        expected = step_by_step(memory, inputs, carried, begins)
    found = gradients(memory, memory.sequence(inputs, carried, begins))
    for name, gradient in gradients(memory, expected).items():
        torch.testing.assert_close(found[name], gradient, rtol=2e-4, atol=2e-5, msg=name)


def episodes(begins):
    starts = sorted({0, *begins.nonzero().flatten().tolist()})
    return list(zip(starts, [*starts[1:], len(begins)], strict=True))


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_recurrent_networks_match_pytorch(kind):
    memory = memory_of(kind)
    (inputs, _), carried = sequence(), remembered(memory)
    reference = (torch.nn.GRU if kind == "gru" else torch.nn.LSTM)(INPUTS, SIZE)
    turned = {name: leaf.detach() for name, leaf in memory.leaves.items()}
    if kind == "gru":
        turned |= {name: turned[name].t() for name in ("input_weight", "weight")}
    names = {"weight_ih_l0": "input_weight", "weight_hh_l0": "weight", "bias_ih_l0": "input_bias", "bias_hh_l0": "bias"}
    reference.load_state_dict({theirs: turned[ours] for theirs, ours in names.items()})
    start = carried[None] if kind == "gru" else tuple(part.contiguous()[None] for part in carried.chunk(2, 1))
    with torch.no_grad():
        expected, _ = reference(inputs, start)
        found = memory.sequence(inputs, carried, torch.zeros(STEPS, ENVS, dtype=torch.bool))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@each_kind
def test_memory_never_looks_ahead(kind):
    memory = memory_of(kind, window=STEPS, layers=2)
    (inputs, begins), carried = sequence(), remembered(memory)
    changed = inputs.clone()
    changed[6:] += 10.0
    with torch.no_grad():
        before, after = (memory.sequence(each, carried, begins) for each in (inputs, changed))
    assert torch.equal(before[:6], after[:6])
    assert not torch.equal(before[6:], after[6:])


@each_kind
def test_memory_never_looks_across_the_beginning_of_an_episode(kind):
    memory = memory_of(kind, window=STEPS, layers=2)
    (inputs, begins), carried = sequence(), remembered(memory)
    begins[:] = False
    begins[6, :3] = True
    changed = inputs.clone()
    changed[:6] += 10.0
    with torch.no_grad():
        before, after = (memory.sequence(each, carried, begins) for each in (inputs, changed))
    assert torch.equal(before[6:, :3], after[6:, :3])
    assert (before[6:, 3:] != after[6:, 3:]).any(2).all()


def test_attention_looks_back_no_further_than_its_window():
    memory = memory_of("attention", window=4)
    inputs, begins = sequence()
    changed = inputs.clone()
    changed[2] += 10.0
    carried = torch.zeros(ENVS, memory.size)
    with torch.no_grad():
        before, after = (memory.sequence(each, carried, begins & False) for each in (inputs, changed))
    assert (before != after).any(2).all(1).tolist() == [2 <= time <= 6 for time in range(STEPS)]


def test_attention_weights_of_a_step_sum_to_one_over_the_episode():
    memory = memory_of("attention", window=4)
    carried = torch.zeros(2, memory.size)
    with torch.no_grad():
        for _ in range(3):
            _, carried = memory.step(torch.ones(2, INPUTS), carried)
    torch.testing.assert_close(memory.weights.sum(1), torch.ones(2))
    assert (memory.weights > 0).tolist() == [[False, False, True, True, True]] * 2


# Learning


class Recall(Forgetful):
    """Reward 1 for the sign of what was observed in the episode's first step alone, also after it has gone."""

    def __init__(self, length=4, **settings):
        super().__init__(32, length, discrete=True, **settings)

    def _observe(self):
        shown = scattered_signs(self.seed, self.rows, self.counts - self.times)
        return np.stack([shown * (self.times == 0), np.ones(self.num_envs)], 1).astype(np.float32)

    def step(self, actions):
        wanted = scattered_signs(self.seed, self.rows, self.counts - self.times) > 0
        counts, waiting = self.times.copy(), self.waiting.copy()
        observation, _, terminated, truncated, infos = super().step(actions)
        return observation, (actions == wanted) * ~waiting * (counts >= 0) * 1.0, terminated, truncated, infos


def scattered_signs(seed, rows, episodes):
    return np.where(np.sin(seed * 12.9898 + rows * 78.233 + episodes * 37.719) > 0, 1.0, -1.0)


TINY = RecurrentPPOConfig(
    num_envs=32, rollout_steps=12, minibatch_size=192, epochs=3, learning_rate=5e-3, memory_size=16, hidden_sizes=(16,),
    gamma=0.5, normalize_observation=False, attention_window=8, attention_heads=2,
)  # fmt: skip


def last_reward(agent, steps):
    rows = []
    agent.learn(steps, lambda _, row: rows.append(row["reward_mean"]))
    return rows[-1]


@each_kind
def test_memory_learns_what_memoryless_ppo_cannot(kind):
    assert last_reward(RecurrentPPO(Recall(), dataclasses.replace(TINY, memory=kind)), 5_000) > 0.95


def test_memoryless_ppo_guesses_what_has_gone():
    shared = {
        name: getattr(TINY, name) for name in ("rollout_steps", "epochs", "minibatch_size", "learning_rate", "gamma")
    }
    assert last_reward(PPO(Recall(), PPOConfig(**shared, hidden_sizes=(16, 16))), 5_000) < 0.75


@each_kind
@pytest.mark.parametrize("mode", [pytest.param(SAME_STEP, marks=pytest.mark.slow), NEXT_STEP], ids=str)
def test_resumed_in_mid_episode_it_gives_the_same_numbers(kind, mode):
    config = dataclasses.replace(TINY, memory=kind, num_envs=8, rollout_steps=4, learning_rate_schedule="linear")
    whole, expected = RecurrentPPO(Spot(8, mode=mode), config, seed=3), []
    whole.learn(500, lambda _, row: expected.append(row))
    first, rows = RecurrentPPO(Spot(8, mode=mode), config, seed=3), []
    first.learn(500, lambda _, row: rows.append(row) or len(rows) < 4)
    state = trainer_state(first)
    assert state["memory.memory"].abs().sum() > 0
    second = RecurrentPPO(Spot(8, mode=mode), config, seed=4)
    restore(second, state)
    second.learn(500, lambda _, row: rows.append(row))
    assert repr(rows) == repr(expected)
    assert torch.equal(parameters(second), parameters(whole))


@each_kind
@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP], ids=str)
def test_rollout_is_reproduced_by_the_sequence_pass(kind, mode):
    """Before anything is learned from it: log-probabilities and values, memory carried over and zeroed."""
    agent = RecurrentPPO(Spot(8, mode=mode), dataclasses.replace(TINY, memory=kind, num_envs=8, rollout_steps=7))
    agent.stepper.begin_episodes()
    agent.collect(10**9)
    part = agent.collect(10**9)
    assert part.begins.any()
    with torch.no_grad():
        features = agent.policy.sequence(part.inputs, part.memory[0], part.begins)
        log_prob = agent.policy.base.distribution.log_prob(agent.policy.network(features.flatten(0, 1)).view(7, 8, -1),
                                                           part.samples)  # fmt: skip
        value = agent.critic(features.flatten(0, 1)).view(7, 8)
    torch.testing.assert_close(log_prob[part.mask], part.log_prob[part.mask])
    torch.testing.assert_close(value[part.mask], part.value[part.mask], rtol=1e-4, atol=1e-5)


def test_steps_that_do_not_count_change_no_gradient():
    agent = RecurrentPPO(Spot(8), dataclasses.replace(TINY, num_envs=8, normalize_advantage=False))
    agent.stepper.begin_episodes()
    part = agent.collect(8 * 12)
    part.mask[9:] = False
    shorter = dataclasses.replace(part, **{name: column[:9] for name, column in vars(part).items() if name != "memory"})
    part.advantage[9:], part.target[9:], part.inputs[9:] = 1e3, -1e3, 7.0
    found = []
    for sequences in (part, shorter):
        agent.optimizer.step = lambda gradients, rate, scale, found=found: found.append([g.clone() for g in gradients])
        agent._improve_once(sequences, 1e-3)
    for padded, plain in zip(*found, strict=True):
        torch.testing.assert_close(padded, plain)


def test_time_limit_bootstraps_from_the_last_observation_with_its_memory():
    agent = RecurrentPPO(Spot(4, length=3), dataclasses.replace(
        TINY, num_envs=4, rollout_steps=3, gae_lambda=0.0, observe_change=False))  # fmt: skip
    agent.stepper.begin_episodes()
    agent.stepper.staggering = None
    finals, step = [], agent.stepper.step
    agent.stepper.step = lambda *given: finals.append(step(*given)) or finals[-1]
    part = agent.collect(10**9)
    assert finals[2].done.all()
    final = agent.policy.base.normalizer.inputs(finals[2].final_observations, "cpu")
    inputs = torch.cat([part.inputs, torch.cat([final, part.samples[2].clamp(-1, 1)], 1)[None]])
    with torch.no_grad():
        features = agent.policy.sequence(inputs, agent.policy.nothing(4), torch.zeros(4, 4, dtype=torch.bool))
        values = agent.critic(features[3])[:, 0]
    rewards = torch.from_numpy(finals[2].rewards / agent.return_normalizer.scale).clamp(-10, 10)
    torch.testing.assert_close(part.target[2], rewards + TINY.gamma * values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP], ids=str)
def test_memory_takes_the_change_of_the_observation_within_an_episode(mode):
    agent = RecurrentPPO(Spot(8, mode=mode), dataclasses.replace(TINY, num_envs=8))
    agent.learn(96)
    part, scale = agent.collect(10**9), 1.0 / np.sqrt(agent.policy.change_moments.variance + 1e-8)
    assert agent.policy.change_moments.count > 0
    expected = part.inputs[1:, :, :2].diff(dim=0) * torch.from_numpy(scale) * ~part.begins[2:, :, None]
    torch.testing.assert_close(part.inputs[2:, :, 2:4].double(), expected.clamp(-10, 10), rtol=1e-3, atol=1e-4)
    assert (part.inputs[:, :, 2:4][part.begins] == 0).all()


# Acting


@each_kind
def test_acting_with_explicit_memory_equals_acting_since_begin(kind, tmp_path):
    agent = RecurrentPPO(Spot(4), dataclasses.replace(TINY, memory=kind, num_envs=4))
    agent.learn(200)
    save_agent(agent, tmp_path)
    loaded, memory = load_agent(tmp_path), None
    assert isinstance(loaded, EpisodicActor)
    observations = np.random.default_rng(0).uniform(-1, 1, (6, 4, 2)).astype(np.float32)
    acted = []
    for observation in observations:
        action, memory = loaded.policy.act(observation, memory)
        np.testing.assert_array_equal(loaded.act(observation), action)
        acted.append(action)
    assert isinstance(loaded, Attentive)
    looked = loaded.attention  # of 6 steps, at a window of 8 and the present one
    assert (None if looked is None else (looked > 0).tolist()) == (
        [[False] * 3 + [True] * 6] * 4 if kind == "attention" else None
    )
    loaded.begin(agent.env)
    np.testing.assert_array_equal(loaded.act(observations[0]), acted[0])
    assert (loaded.act(observations[0]) != acted[0]).any()
    single, of_one = loaded.policy.act(observations[0, 0])
    assert single.shape == (1,)
    assert of_one.shape == (1, memory.shape[1])
    with pytest.raises(GantryError, match="the memory must be"):
        loaded.policy.act(observations[0], of_one)


def test_evaluation_depends_on_no_evaluation_before():
    options = {"max_episode_steps": 20}
    agent = RecurrentPPO(open_env("CartPoleSwingUp-v0", 2, options), dataclasses.replace(TINY, num_envs=2))
    agent.learn(100)
    first = evaluate_agent(agent, "CartPoleSwingUp-v0", 3, env_options=options)
    assert evaluate_agent(agent, "CartPoleSwingUp-v0", 3, env_options=options) == first
    foreign = evaluate_agent(RecurrentPPO(gymnasium.make_vec("CartPole-v1", 2), TINY), "CartPole-v1", 2)
    assert foreign.episodes == 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"memory": "brain"}, "memory must be gru, lstm"), ({"memory": "attention", "memory_size": 30}, "multiple of"),
     ({"memory_size": 0}, "memory_size"), ({"attention_window": 0}, "attention_window")],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(setting, said):
    with pytest.raises(GantryError, match=said):
        RecurrentPPOConfig(**setting)
