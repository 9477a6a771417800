"""Networks elsewhere than on the processor: agents that take a device move what has to be moved, and learn the same."""

import pytest
import second_device
import torch
from agent_states import opened, policy_state, restore, trainer_state

from gantry.agents import agent_class, config_class, load_agent, save_agent
from gantry.agents.parts.optim import Adam
from gantry.agents.parts.rmsprop import RMSprop

SMALL = {"num_envs": 4, "hidden_sizes": (16, 16)}
OFF_POLICY = {**SMALL, "learning_starts": 40, "batch_size": 16, "buffer_size": 500, "report_every": 10}
CASES = {
    "dqn": ("CartPole-v1", OFF_POLICY),
    "dqn with its options": (
        "CartPole-v1",
        {**OFF_POLICY, "double": True, "dueling": True, "n_step": 3, "prioritized": True},
    ),
    "reinforce": ("CartPole-v1", {**SMALL, "episodes": 8}),
    "reinforce with a mean baseline": ("Pendulum-v1", {**SMALL, "episodes": 4, "baseline": "mean"}),
    "reinforce of discounted states": ("CartPole-v1", {**SMALL, "episodes": 8, "discount_states": True}),
    "a2c": ("Pendulum-v1", SMALL),
    "a2c with a shared body": ("CartPole-v1", {**SMALL, "shared_body": True, "optimizer": "adam"}),
    "ppo": ("Pendulum-v1", {**SMALL, "rollout_steps": 16, "minibatch_size": 32}),
    "ppo with squashed actions": ("Pendulum-v1", {**SMALL, "rollout_steps": 16, "squash_actions": True}),
    "recurrent-ppo": ("Pendulum-v1", {**SMALL, "rollout_steps": 16, "memory_size": 8}),
    "recurrent-ppo with attention": (
        "CartPole-v1",
        {**SMALL, "rollout_steps": 16, "memory": "attention", "memory_size": 8, "attention_window": 4},
    ),
    "ddpg": ("Pendulum-v1", OFF_POLICY),
    "ddpg that resumes": ("gantry/CartPoleSwingUp-v0", OFF_POLICY),
    "ddpg with twin critics": (
        "Pendulum-v1",
        {**OFF_POLICY, "twin_critics": True, "n_step": 3, "normalize_observation": True},
    ),
    "sac": ("Pendulum-v1", OFF_POLICY),
    "ddpg with hindsight": (
        "gantry/ReachGoal-v0",
        {**OFF_POLICY, "hindsight_goals": 4, "relative_goals": True, "exploration": "ornstein-uhlenbeck"},
    ),
}


def learned(case, device, steps=160):
    environment, settings = CASES[case]
    kind, settings_class = agent_class(case.split()[0]), config_class(case.split()[0])
    agent = kind(opened(environment, settings["num_envs"]), settings_class(**settings, device=device), seed=3)
    agent.learn(steps)
    agent.env.single_observation_space.seed(4)
    action = agent.act(agent.env.single_observation_space.sample())
    agent.env.close()
    return agent, action


@pytest.mark.parametrize("case", CASES)
def test_an_agent_whose_networks_are_elsewhere_learns_the_same(case, monkeypatch):
    here, action = learned(case, "cpu")
    second_device.provide(monkeypatch)
    elsewhere, again = learned(case, "cuda")
    held = [each for part in vars(elsewhere).values() for each in (part if isinstance(part, list) else [part])]
    optimizers = [part for part in held if isinstance(part, Adam | RMSprop)]
    learned_tensors = [tensor for optimizer in optimizers for tensor in optimizer.parameters]
    assert learned_tensors
    assert all(isinstance(tensor, second_device.Elsewhere) for tensor in learned_tensors)
    assert (action == again).all()
    ours, theirs = policy_state(here), policy_state(elsewhere)
    for name, tensor in ours.items():
        assert not isinstance(theirs[name], second_device.Elsewhere)
        assert torch.equal(tensor, theirs[name]), name


def test_learning_elsewhere_goes_on_where_it_stopped(monkeypatch):
    second_device.provide(monkeypatch)
    whole, _ = learned("ddpg that resumes", "cuda", 160)
    half, _ = learned("ddpg that resumes", "cuda", 80)
    state = trainer_state(half)
    tensors = state if isinstance(state, dict) else state[0]
    assert not any(isinstance(tensor, second_device.Elsewhere) for tensor in tensors.values())
    resumed, _ = learned("ddpg that resumes", "cuda", 0)
    restore(resumed, state)
    resumed.learn(160)
    expected = policy_state(whole)
    for name, tensor in policy_state(resumed).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("case", ["dqn", "reinforce", "a2c", "ppo", "ddpg", "sac"])
def test_a_policy_learned_elsewhere_acts_on_a_machine_without_it(case, tmp_path, monkeypatch):
    with monkeypatch.context() as patches:
        second_device.provide(patches)
        agent, _ = learned(case, "cuda")
        save_agent(agent, tmp_path)
        observation = agent.env.single_observation_space.sample()
        expected = agent.act(observation)
    loaded = load_agent(tmp_path)
    assert loaded.config.device == "cpu"
    assert (loaded.act(observation) == expected).all()


def test_the_stand_in_refuses_what_a_card_refuses(monkeypatch):
    second_device.provide(monkeypatch)
    card, here = torch.ones(3, device="cuda"), torch.ones(3)
    with pytest.raises(RuntimeError, match="two devices"):
        card + here
    with pytest.raises(RuntimeError, match="two devices"):
        torch.mul(here, here, out=card)
    with pytest.raises(RuntimeError, match="generator"):
        card.normal_(generator=torch.Generator())
    with pytest.raises(TypeError, match="NumPy"):
        card.numpy()
    assert (card + here.to("cuda")).device.type == "cuda"
    assert type((2.0 * card).cpu()) is torch.Tensor
