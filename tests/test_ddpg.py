import concurrent.futures
import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import Spot

from gantry.agents import default_config
from gantry.agents.ddpg import DDPG, DDPGConfig, action_gradient, actor_gradient, critic_loss, smoothed
from gantry.agents.parts.network_pass import Pass
from gantry.agents.parts.networks import MLP
from gantry.errors import GantryError
from gantry.spaces.maps import Spaces

SMALL = DDPGConfig(
    num_envs=16, learning_starts=200, batch_size=64, hidden_sizes=(32, 32), gamma=0.5, learning_rate=3e-3,
    actor_learning_rate=3e-3, tau=0.02, noise_start=0.3,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Formulas


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
def test_policy_gradient_matches_differentiating_through_a_known_quadratic_value(activation, penalty):
    """Q(s, a) = -(a - W s)ᵀ M (a - W s), whose slope in a is -2 M (a - W s)."""
    actor = MLP((3, 8, 8, 2), activation, 1.0, generator())
    observation, matrix = torch.randn(16, 3, generator=generator(1)), torch.tensor([[2.0, 0.3], [0.3, 1.0]])
    best = observation @ torch.randn(3, 2, generator=generator(2))
    outputs = actor(observation)
    action = torch.tanh(outputs)
    value = -((action - best) @ matrix * (action - best)).sum(1)
    mean_slope = (2.0 * (action - best) @ matrix).abs().mean().detach()
    loss = -value.mean() + penalty * mean_slope * outputs.square().sum(1).mean()
    (expected,) = torch.autograd.grad(loss, actor.vector)
    gradient = (-2.0 * (action - best) @ matrix).detach()
    run = Pass(actor, observation)
    found = run.gradient(actor_gradient(run.outputs, gradient, penalty))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("learns", [True, False])
def test_action_gradient_matches_finite_differences(learns):
    """With a critic that learns, and with one whose parameters require no gradient."""
    critic = MLP((5, 8, 8, 1), "tanh", 1.0, generator())
    critic.vector.requires_grad_(learns)
    observation, action = torch.randn(16, 3, generator=generator(1)), torch.randn(16, 2, generator=generator(2))
    found = action_gradient(critic, observation, action)
    with torch.no_grad():
        for column, step in enumerate(torch.eye(2) * 1e-2):
            above, below = (critic(torch.cat([observation, action + sign * step], 1)) for sign in (1, -1))
            expected = ((above - below) / 2e-2).squeeze(1)
            torch.testing.assert_close(found[:, column], expected, rtol=1e-2, atol=1e-3)


def test_critic_loss_by_hand():
    value = torch.tensor([1.0, 3.0], requires_grad=True)
    loss, gradient = critic_loss(value, torch.tensor([0.0, 5.0]))
    assert loss.item() == 2.5
    assert gradient.tolist() == [1.0, -2.0]
    assert torch.equal(torch.autograd.grad(loss, value)[0], gradient)


def test_smoothed_actions_by_hand():
    action, noise = torch.tensor([[0.0, 0.9, -0.2]]), torch.tensor([[0.7, 0.3, -0.1]])
    torch.testing.assert_close(smoothed(action, noise, 0.5), torch.tensor([[0.5, 1.0, -0.3]]))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (None, None, [-3.0, 0.5, 2.0]),
        (-1.0, None, [-1.0, 0.5, 2.0]),
        (None, 0.0, [-3.0, 0.0, 0.0]),
        (-1.0, 1.0, [-1.0, 0.5, 1.0]),
    ],
)
def test_targets_are_clipped_to_possible_returns(low, high, expected):
    agent, batch = agent_with_a_batch(target_min=low, target_max=high)
    rewards = torch.tensor([-3.0, 0.5, 2.0])
    batch.reward[:3], batch.discount[:3] = rewards, 0.0
    assert agent.targets(batch)[:3].tolist() == expected


def agent_with_a_batch(**settings):
    config = DDPGConfig(num_envs=4, learning_starts=40, batch_size=8, hidden_sizes=(16,), gamma=0.9, **settings)
    agent = DDPG(Spot(4, terminal=True), config)
    agent.learn(40)
    with torch.no_grad():
        for index, network in enumerate(networks(agent).values()):
            network.vector += torch.randn(network.vector.shape, generator=generator(index)) * 0.3
    return agent, agent.replay.sample(32, 0.0)


def networks(agent):
    """The actor and the critics, and their targets, by name."""
    learned = {"actor": agent.actor, **{f"critic {index}": critic for index, critic in enumerate(agent.critics)}}
    copies = [agent.target_actor, *agent.target_critics]
    return learned | {f"target {name}": copy for name, copy in zip(learned, copies, strict=True)}


@pytest.mark.parametrize(("twin", "low", "high"), [(False, None, None), (True, None, None), (False, -0.4, -0.1)])
def test_critic_gradients_are_those_of_the_bellman_error(twin, low, high):
    agent, batch = agent_with_a_batch(twin_critics=twin, target_policy_noise=0.0, target_min=low, target_max=high)
    assert (batch.discount == 0).any()
    with torch.no_grad():
        following = torch.tanh(agent.target_actor(batch.next_observation))
        inputs = torch.cat([batch.next_observation, following], 1)
        values = [critic(inputs)[:, 0] for critic in agent.target_critics]
        target = batch.reward + batch.discount * (torch.minimum(*values) if twin else values[0])
    if low is not None:
        assert (target < low).any()
        assert (target > high).any()
        target = torch.where(target < low, low, torch.where(target > high, high, target))
    expected, losses, means = [], [], []
    for critic in agent.critics:
        value = critic(batch.observation_action)[:, 0]
        loss = (value - target).square().mean()
        expected.append(torch.autograd.grad(loss, critic.vector)[0])
        losses.append(loss.item())
        means.append(value.mean().item())
    agent.critic_optimizers = [Recorder(critic) for critic in agent.critics]
    metrics = agent.improve_critics(batch, 0.0)
    for recorder, gradient in zip(agent.critic_optimizers, expected, strict=True):
        torch.testing.assert_close(recorder.gradient, gradient, rtol=1e-4, atol=1e-6)
    assert metrics == pytest.approx((np.mean(losses), np.mean(means)), rel=1e-5)


class Recorder:
    """An optimizer that notes gradients and moves nothing."""

    def __init__(self, network):
        self.parameters, self.steps = [network.vector], 0

    def step(self, gradients, learning_rate, scale):
        self.gradient = gradients[0]


@pytest.mark.parametrize("delay", [2, 3])
def test_policy_delay_of_td3(delay):
    config = dataclasses.replace(default_config("td3"), num_envs=4, learning_starts=0, batch_size=8, policy_delay=delay)
    agent = DDPG(Spot(4), config)
    moved = []
    before = {name: network.vector.clone() for name, network in networks(agent).items()}
    for _ in range(2 * delay):
        agent.learn(agent.steps + 4)
        now = {name: network.vector.clone() for name, network in networks(agent).items()}
        moved.append({name for name in now if not torch.equal(now[name], before[name])})
        before = now
    for step, names in enumerate(moved, 1):
        assert names == ({"critic 0", "critic 1"} if step % delay else set(before))


def test_actor_climbs_the_critic_as_it_was_before_its_step():
    agent, batch = agent_with_a_batch()
    before_tanh = agent.actor(batch.observation)
    slope = action_gradient(agent.critics[0], batch.observation, before_tanh.detach().tanh())
    loss = -(slope * before_tanh.tanh()).sum(1).mean()
    loss += 0.01 * slope.abs().mean() * before_tanh.square().sum(1).mean()
    (expected,) = torch.autograd.grad(loss, agent.actor.vector)
    critic = agent.critics[0].vector.clone()
    agent.actor_optimizer = Recorder(agent.actor)
    with concurrent.futures.ThreadPoolExecutor(1) as worker:
        agent.improve(batch, 0.0, worker)
    torch.testing.assert_close(agent.actor_optimizer.gradient, expected)
    assert not torch.equal(agent.critics[0].vector, critic)


# Learning


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"twin_critics": True},
        pytest.param({"exploration": "ornstein-uhlenbeck", "n_step": 2}, marks=pytest.mark.slow),
    ],
)
def test_learns_continuous_actions(settings):
    agent = DDPG(Spot(), DDPGConfig(**{**vars(SMALL), **settings}), seed=1)
    agent.learn(6_000)
    spots = np.linspace(-0.8, 0.8, 9, dtype=np.float32)
    actions = agent.act(np.stack([spots, np.full(9, 0.4, np.float32)], 1))
    np.testing.assert_allclose(actions[:, 0], spots, atol=0.2)


def test_learning_starts_with_uniformly_random_actions():
    agent = DDPG(Spot(), DDPGConfig(num_envs=16, learning_starts=4_000))
    before = agent.actor.vector.clone()
    agent.learn(3_990)
    actions = agent.replay.buffer.gather(torch.arange(3_990)).action.numpy()
    assert np.histogram(actions, 4, (-1.0, 1.0))[0].min() > 900
    assert torch.equal(agent.actor.vector, before)


def test_actions_stay_within_bounds_with_any_noise():
    agent = DDPG(Spot(), DDPGConfig(num_envs=16, learning_starts=0, noise_start=5.0, batch_size=16))
    agent.learn(800)
    actions = agent.replay.buffer.gather(torch.arange(800)).action
    assert actions.abs().max() == 1.0
    assert (actions.abs() == 1.0).float().mean() > 0.5


@pytest.mark.parametrize(
    "space", [gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)]
)
def test_actions_without_bounds_are_refused(space):
    with pytest.raises(GantryError, match="ppo"):
        DDPG(Spaces(gymnasium.spaces.Box(-1.0, 1.0, (2,)), space))


@pytest.mark.parametrize(
    ("space", "others"),
    [
        (gymnasium.spaces.Discrete(2), "dqn or ppo"),
        (gymnasium.spaces.MultiBinary(2), "ppo"),
        (gymnasium.spaces.MultiDiscrete([2, 2]), "ppo"),
    ],
    ids=str,
)
def test_refusal_names_the_agent_that_was_asked_for_and_those_that_take_the_space(space, others):
    with pytest.raises(GantryError, match=rf"^td3 needs Box actions, not .*; use {others}$"):
        DDPG(Spaces(gymnasium.spaces.Box(-1.0, 1.0, (2,)), space), default_config("td3"))
