import concurrent.futures
import math

import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import Spot

from gantry.agents.parts.td_targets import hard_update
from gantry.agents.sac import (
    SAC,
    SACConfig,
    actor_loss,
    critic_loss,
    growing_discount,
    mean_and_log_std,
    sample_action,
    temperature_loss,
)
from gantry.errors import GantryError
from gantry.spaces.maps import Spaces

SMALL = {
    "num_envs": 16, "learning_starts": 200, "batch_size": 64, "hidden_sizes": (32, 32), "gamma": 0.5,
    "learning_rate": 3e-3, "actor_learning_rate": 3e-3, "temperature_learning_rate": 3e-3, "tau": 0.02,
    "initial_temperature": 0.1,
}  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Losses


def test_sampled_actions_and_log_probs_match_torch_distributions():
    outputs, noise = torch.randn(50, 6, generator=generator()), torch.randn(50, 3, generator=generator(1))
    outputs[:, 3:] *= 0.5  # within the bounds of log std
    action, log_prob = sample_action(outputs, noise)
    mean, std = outputs[:, :3], outputs[:, 3:].exp()
    torch.testing.assert_close(action, torch.tanh(mean + std * noise))
    tanh = torch.distributions.TanhTransform()
    reference = torch.distributions.TransformedDistribution(torch.distributions.Normal(mean, std), [tanh])
    inner = action.abs().amax(1) < 0.999  # further out, the reference's inverse of the tanh loses digits
    assert inner.sum() > 20
    expected = reference.log_prob(action).sum(1)
    torch.testing.assert_close(log_prob[inner], expected[inner], rtol=1e-3, atol=1e-3)


def test_log_std_is_bounded():
    mean, log_std = mean_and_log_std(torch.tensor([[100.0, -100.0, 100.0, -100.0]]))
    assert mean.tolist() == [[100.0, -100.0]]
    assert log_std.tolist() == [[2.0, -20.0]]


def test_losses_by_hand():
    value, target = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([0.0, 5.0])
    loss, gradient = critic_loss(value, target)
    assert loss.item() == 1.25
    assert gradient.tolist() == [0.5, -1.0]
    assert torch.equal(torch.autograd.grad(loss, value)[0], gradient)
    log_prob = torch.tensor([-1.0, 2.0])
    assert actor_loss(target, log_prob, torch.tensor(0.5)).item() == ((-0.5 - 0.0) + (1.0 - 5.0)) / 2
    log_temperature = torch.tensor(-2.0, requires_grad=True)
    loss = temperature_loss(log_temperature, log_prob, -3.0)
    assert loss.item() == 2.0 * (0.5 - 3.0)
    loss.backward()
    assert log_temperature.grad.item() == 2.5  # the entropy of -0.5 is above its target: descent lowers α


class Recorder:
    """An optimizer that notes gradients and moves nothing."""

    def __init__(self, tensor):
        self.parameters = [tensor]

    def step(self, gradients, learning_rate, scale=1.0):
        self.gradient = gradients[0]


def test_gradients_of_one_step_match_naive_losses():
    agent = SAC(Spot(4, terminal=True), SACConfig(**{**SMALL, "num_envs": 4, "learning_starts": 40, "n_step": 2}))
    agent.learn(40)
    networks = [agent.actor, *agent.critics, *agent.target_critics]
    with torch.no_grad():
        for index, network in enumerate(networks):
            network.vector += torch.randn(network.vector.shape, generator=generator(index)) * 0.15
    batch = agent.replay.sample(32, 0.0)
    assert (batch.discount == 0).any()
    observation, inputs, following = batch.observation, batch.observation_action, batch.next_observation
    noise, next_noise = torch.randn(2, 32, 1, generator=generator(9))
    alpha = 0.1

    def policy(state, epsilon):
        """An action and its log-probability, by the textbook's formulas."""
        mean, log_std = agent.actor(state).split(1, 1)
        latent = mean + torch.exp(log_std) * epsilon
        density = -0.5 * epsilon.square() - log_std - 0.5 * math.log(2 * math.pi)
        return torch.tanh(latent), (density - torch.log(1 - torch.tanh(latent).square())).sum(1)

    with torch.no_grad():
        action, log_prob = policy(following, next_noise)
        values = [critic(torch.cat([following, action], 1))[:, 0] for critic in agent.target_critics]
        target = batch.reward + batch.discount * (torch.minimum(*values) - alpha * log_prob)
    expected = []
    for critic in agent.critics:
        loss = 0.5 * (critic(inputs)[:, 0] - target).square().mean()
        expected.append(torch.autograd.grad(loss, critic.vector)[0])
    action, log_prob = policy(observation, noise)
    lower = torch.minimum(*(critic(torch.cat([observation, action], 1))[:, 0] for critic in agent.critics))
    expected.append(torch.autograd.grad((alpha * log_prob - lower).mean(), agent.actor.vector)[0])
    expected.append(-(log_prob.detach().mean() - 1.0))

    agent.critic_optimizers = [Recorder(critic.vector) for critic in agent.critics]
    agent.actor_optimizer, agent.temperature_optimizer = Recorder(agent.actor.vector), Recorder(agent.temperature.log)
    hard_update(agent.previous_actor, agent.actor)
    for previous, critic in zip(agent.previous_critics, agent.critics, strict=True):
        hard_update(previous, critic)
    agent.improve_critics(batch, next_noise, torch.tensor(alpha), 0.0)
    entropy = agent.improve_actor(observation, noise, torch.tensor(alpha), 0.0)
    recorders = [*agent.critic_optimizers, agent.actor_optimizer, agent.temperature_optimizer]
    for recorder, gradient in zip(recorders, expected, strict=True):
        torch.testing.assert_close(recorder.gradient, gradient, rtol=1e-3, atol=1e-5)
    assert entropy == pytest.approx(-log_prob.mean().item(), abs=1e-3)


def test_actor_and_critics_use_each_other_as_they_were_before_the_step():
    agent = SAC(Spot(4), SACConfig(**{**SMALL, "num_envs": 4, "learning_starts": 40}))
    agent.learn(40)
    before = [network.vector.detach().clone() for network in (agent.actor, *agent.critics)]
    with concurrent.futures.ThreadPoolExecutor(1) as worker:
        agent.improve(agent.replay.sample(32, 0.0), 0.0, worker)
    used = [agent.previous_actor, *agent.previous_critics]
    for network, learned, vector in zip(used, (agent.actor, *agent.critics), before, strict=True):
        assert torch.equal(network.vector, vector)
        assert not torch.equal(learned.vector, vector)


def test_growing_discount_looks_ten_steps_ahead_at_first_and_ends_at_gamma():
    for gamma in (0.99, 0.999, 1.0):
        assert growing_discount(gamma, 0.0) == pytest.approx(0.9)
        assert growing_discount(gamma, 1.0) == pytest.approx(gamma)
    assert growing_discount(0.999, 0.5) == pytest.approx(0.99)  # 10, 100, 1000 steps: geometrically
    assert growing_discount(0.8, 0.0) == 0.8  # looks no farther than that


def test_targets_discount_by_what_has_grown_after_as_many_gradient_steps():
    settings = {**SMALL, "num_envs": 4, "learning_starts": 40, "gamma": 0.99, "gamma_growth_steps": 100}
    agent = SAC(Spot(4, terminal=True), SACConfig(**settings))
    agent.learn(40)
    batch, noise, alpha = agent.replay.sample(32, 0.0), torch.zeros(32, 1), torch.tensor(0.1)

    def targets(steps):
        for optimizer in agent.critic_optimizers:
            optimizer.steps = steps
        return agent.targets(batch, noise, alpha)

    ratio = (targets(50) - batch.reward) / (targets(100) - batch.reward)
    assert (batch.discount == 0).any()
    torch.testing.assert_close(
        ratio[batch.discount > 0],
        torch.tensor(growing_discount(0.99, 0.5) / 0.99).expand(int((batch.discount > 0).sum())),
    )
    torch.testing.assert_close(targets(1_000), targets(100), rtol=0, atol=0)
    with pytest.raises(GantryError, match="n_step must be 1 with gamma_growth_steps"):
        SACConfig(gamma_growth_steps=100, n_step=3)


# Learning


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_learns_continuous_actions(seed):
    agent = SAC(Spot(), SACConfig(**SMALL), seed=seed)
    agent.learn(4_000)
    spots = np.linspace(-0.8, 0.8, 9, dtype=np.float32)
    actions = agent.act(np.stack([spots, np.full(9, 0.4, np.float32)], 1))
    np.testing.assert_allclose(actions[:, 0], spots, atol=0.2)


@pytest.mark.parametrize("target", [-1.5, pytest.param(-0.5, marks=pytest.mark.slow)])
def test_temperature_brings_the_entropy_to_its_target(target):
    rows = []
    agent = SAC(Spot(), SACConfig(**{**SMALL, "temperature_learning_rate": 3e-2, "target_entropy": target}))
    agent.learn(6_000, lambda _, row: rows.append(row))
    assert np.mean([row["entropy"] for row in rows[-3:]]) == pytest.approx(target, abs=0.15)


def test_learning_rate_zero_keeps_the_temperature():
    agent = SAC(Spot(), SACConfig(**{**SMALL, "temperature_learning_rate": 0.0}))
    agent.learn(1_000)
    assert agent.temperature.log.item() == pytest.approx(math.log(0.1))


def test_learning_starts_with_uniformly_random_actions():
    agent = SAC(Spot(), SACConfig(num_envs=16, learning_starts=4_000, hidden_sizes=(8,)))
    before = agent.actor.vector.clone()
    agent.learn(3_990)
    actions = agent.replay.buffer.gather(torch.arange(3_990)).action.numpy()
    assert np.histogram(actions, 4, (-1.0, 1.0))[0].min() > 900
    assert torch.equal(agent.actor.vector, before)


def test_actions_are_sampled_around_the_median():
    agent = SAC(Spot(), SACConfig(**SMALL))
    agent.learn(1_000)
    observation = np.tile(np.array([0.2, 0.4], np.float32), (2_000, 1))
    sampled, median = agent.act(observation, deterministic=False)[:, 0], agent.act(observation[0])[0]
    assert np.abs(sampled).max() <= 1.0
    assert np.std(sampled) > 0.01
    assert np.median(sampled) == pytest.approx(median, abs=float(4.0 * np.std(sampled) / 2_000**0.5))


@pytest.mark.parametrize(
    "space", [gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)]
)
def test_actions_without_bounds_are_refused(space):
    with pytest.raises(GantryError, match="ppo"):
        SAC(Spaces(gymnasium.spaces.Box(-1.0, 1.0, (2,)), space))
