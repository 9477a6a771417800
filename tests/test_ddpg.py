import concurrent.futures

import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import Spot

from gantry.agents.ddpg import DDPG, DDPGConfig, action_slope, critic_gradient, policy_gradient, smoothed, within
from gantry.agents.parts.networks import MLP
from gantry.errors import GantryError

SMALL = DDPGConfig(
    num_envs=16, warm_up_steps=200, batch_size=64, hidden_sizes=(32, 32), gamma=0.5, learning_rate=3e-3,
    actor_learning_rate=3e-3, target_rate=0.02, noise_start=0.3,
)  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Formulas


@pytest.mark.parametrize("penalty", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
def test_the_policy_gradient_is_that_of_automatic_differentiation_through_a_known_quadratic_value(activation, penalty):
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
    with torch.no_grad():
        found = policy_gradient(actor, observation, lambda action: -2.0 * (action - best) @ matrix, penalty)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_slope_of_a_critic_is_that_of_automatic_differentiation():
    critic = MLP((5, 8, 8, 1), "relu", 1.0, generator())
    observation, action = torch.randn(16, 3, generator=generator(1)), torch.randn(16, 2, generator=generator(2))
    action.requires_grad_()
    (expected,) = torch.autograd.grad(critic(torch.cat([observation, action], 1)).sum(), action)
    with torch.no_grad():
        torch.testing.assert_close(action_slope(critic, observation, action), expected, rtol=1e-5, atol=1e-6)


def test_the_critics_gradient_is_that_of_the_mean_squared_error():
    critic = MLP((5, 8, 8, 1), "relu", 1.0, generator())
    inputs, target = torch.randn(16, 5, generator=generator(1)), torch.randn(16, generator=generator(2))
    values = critic(inputs).squeeze(1)
    loss = (values - target).square().mean()
    (expected,) = torch.autograd.grad(loss, critic.vector)
    with torch.no_grad():
        gradient, found, mean = critic_gradient(critic, inputs, target)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found, loss)
    torch.testing.assert_close(mean, values.mean())


def test_smoothed_actions_by_hand():
    action, noise = torch.tensor([[0.0, 0.9, -0.2]]), torch.tensor([[0.7, 0.3, -0.1]])
    torch.testing.assert_close(smoothed(action, noise, 0.5), torch.tensor([[0.5, 1.0, -0.3]]))


def test_targets_are_brought_within_bounds_by_hand():
    for low, high, expected in (
        (None, None, [-3.0, 0.5, 2.0]),
        (-1.0, None, [-1.0, 0.5, 2.0]),
        (None, 0.0, [-3.0, 0.0, 0.0]),
        (-1.0, 1.0, [-1.0, 0.5, 1.0]),
    ):
        assert within(torch.tensor([-3.0, 0.5, 2.0]), low, high).tolist() == expected


def agent_with_a_batch(**settings):
    config = DDPGConfig(num_envs=4, warm_up_steps=40, batch_size=8, hidden_sizes=(16,), gamma=0.9, **settings)
    agent = DDPG(Spot(4, terminal=True), config)
    agent.learn(40)
    with torch.no_grad():
        for index, network in enumerate([*agent.networks.values(), *agent.targets.values()]):
            network.vector += torch.randn(network.vector.shape, generator=generator(index)) * 0.3
    return agent, agent._draw(32, 0.0)


@pytest.mark.parametrize(("twin", "low", "high"), [(False, None, None), (True, None, None), (False, -0.4, -0.1)])
def test_critics_are_fitted_to_the_bellman_target(twin, low, high):
    """The first step of Adam goes down the sign of the gradient, here of autograd's own loss on hand-made targets."""
    agent, batch = agent_with_a_batch(twin=twin, twin_noise=0.0, value_low=low, value_high=high)
    assert (batch.discount == 0).any()
    with torch.no_grad():
        following = torch.tanh(agent.targets["actor"](batch.next_observation))
        inputs = torch.cat([batch.next_observation, following], 1)
        values = [agent.targets[name](inputs)[:, 0] for name in ("critic", "twin")[: 1 + twin]]
        target = batch.reward + batch.discount * (torch.minimum(*values) if twin else values[0])
    if low is not None:
        assert (target < low).any()
        assert (target > high).any()
        target = torch.where(target < low, low, torch.where(target > high, high, target))
    for name in ("critic", "twin")[: 1 + twin]:
        critic = agent.networks[name]
        loss = (critic(batch.observation_action)[:, 0] - target).square().mean()
        (gradient,) = torch.autograd.grad(loss, critic.vector)
        agent.optimizers[name] = Recorder()
        expected = gradient, loss.item()
        with torch.no_grad():
            figures = agent._fit_critics(batch, 0.0)
        torch.testing.assert_close(agent.optimizers[name].gradient, expected[0], rtol=1e-4, atol=1e-6)
        if not twin:
            assert figures[0].item() == pytest.approx(expected[1], rel=1e-5)


class Recorder:
    """Takes gradients and goes nowhere."""

    def step(self, gradients, learning_rate, scale):
        self.gradient = gradients[0]


def test_td3_improves_policy_and_targets_at_every_other_step_only():
    agent, _ = agent_with_a_batch(twin=True)
    agent._updates = 0
    moved = []
    before = {name: network.vector.clone() for name, network in (agent.networks | prefixed(agent.targets)).items()}
    for _ in range(4):
        agent.learn(agent.steps + 4)
        now = {name: network.vector.clone() for name, network in (agent.networks | prefixed(agent.targets)).items()}
        moved.append({name for name in now if not torch.equal(now[name], before[name])})
        before = now
    assert moved[0] == moved[2] == {"critic", "twin"}
    assert moved[1] == moved[3] == set(before)


def prefixed(targets):
    return {f"target {name}": target for name, target in targets.items()}


def test_the_policy_climbs_the_critic_as_it_was_before_its_step():
    agent, batch = agent_with_a_batch()
    with torch.no_grad():
        expected = policy_gradient(
            agent.actor, batch.observation, lambda action: action_slope(agent.critic, batch.observation, action), 0.01
        )
    agent.optimizers["actor"] = Recorder()
    with torch.no_grad(), concurrent.futures.ThreadPoolExecutor(1) as agent._worker:
        agent._fit(batch, 0.0)
    torch.testing.assert_close(agent.optimizers["actor"].gradient, expected)


# Learning


@pytest.mark.parametrize("settings", [{}, {"twin": True}, {"exploration": "ornstein-uhlenbeck", "n_step": 2}])
def test_it_learns_to_name_the_spot(settings):
    agent = DDPG(Spot(), DDPGConfig(**{**vars(SMALL), **settings}), seed=1)
    agent.learn(6_000)
    spots = np.linspace(-0.8, 0.8, 9, dtype=np.float32)
    actions = agent.act(np.stack([spots, np.full(9, 0.4, np.float32)], 1))
    np.testing.assert_allclose(actions[:, 0], spots, atol=0.2)


def test_warm_up_acts_at_random_over_the_whole_range():
    agent = DDPG(Spot(), DDPGConfig(num_envs=16, warm_up_steps=4_000))
    before = agent.actor.vector.clone()
    agent.learn(3_990)
    actions = agent._buffer.gather(torch.arange(3_990)).action.numpy()
    assert np.histogram(actions, 4, (-1.0, 1.0))[0].min() > 900
    assert torch.equal(agent.actor.vector, before)


def test_actions_stay_within_bounds_however_loud_the_noise():
    agent = DDPG(Spot(), DDPGConfig(num_envs=16, warm_up_steps=0, noise_start=5.0, batch_size=16))
    agent.learn(800)
    actions = agent._buffer.gather(torch.arange(800)).action
    assert actions.abs().max() == 1.0
    assert (actions.abs() == 1.0).float().mean() > 0.5


@pytest.mark.parametrize(
    "space", [gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)]
)
def test_actions_without_bounds_are_refused(space):
    with pytest.raises(GantryError, match="ppo"):
        DDPG.check_spaces(gymnasium.spaces.Box(-1.0, 1.0, (2,)), space)
