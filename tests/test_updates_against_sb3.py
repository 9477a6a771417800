"""With the same networks, data and settings, our gradient steps are stable-baselines3's."""

import numpy as np
import pytest
import torch
from agent_states import opened

from gantry.agents.a2c import A2C, A2CConfig
from gantry.agents.ddpg import DDPG, DDPGConfig
from gantry.agents.parts.checkpoint import restore, state_of
from gantry.agents.parts.replay import Minibatch
from gantry.agents.parts.rollouts import Batch
from gantry.agents.parts.td_targets import hard_update, polyak_update
from gantry.agents.ppo import PPO, PPOConfig
from gantry.agents.sac import SAC, SACConfig

peers = pytest.importorskip("stable_baselines3")

ENVIRONMENT = "Pendulum-v1"
UPDATES = 3
"""Enough for an optimizer's running means to matter."""
PLAIN = {"num_envs": 4, "normalize_observation": False, "normalize_return": False, "action_scaling": "none"}
UNCLIPPED = 1e9
"""The length of a gradient that neither side cuts: ours is each network's, theirs that of both networks together."""


def layers(*modules):
    """The linear layers in PyTorch modules, as `MLP.state` has them."""
    linear = [part for module in modules for part in module.modules() if isinstance(part, torch.nn.Linear)]
    tensors = {}
    for index, layer in enumerate(linear):
        tensors[f"{index}.weight"], tensors[f"{index}.bias"] = layer.weight.detach().t(), layer.bias.detach()
    return tensors


def of_actor_critic(policy):
    actor = layers(policy.mlp_extractor.policy_net, policy.action_net)
    return {"actor": actor, "critic": layers(policy.mlp_extractor.value_net, policy.value_net)}


def assert_same(networks, expected):
    for network, tensors in expected.items():
        ours = state_of(networks[network])
        assert list(ours) == list(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_allclose(ours[name], tensor, rtol=1e-4, atol=2e-6, err_msg=f"{network} {name}")


def check_on_policy(agent, model):
    """Compare `UPDATES` updates of ours, from what theirs collected and from its first networks, with its own."""
    networks = {"actor": agent.policy.network, "critic": agent.critic}
    for name, tensors in of_actor_critic(model.policy).items():
        restore(networks[name], tensors)
    before = agent.policy.network.vector.detach().clone()
    for _ in range(UPDATES):
        _, callback = model._setup_learn(0)
        model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
        (data,) = model.rollout_buffer.get(None)
        model.train()
        columns = (data.observations, data.actions, data.old_log_prob, data.advantages, data.returns)
        agent.improve(Batch(*columns, data.old_values.flatten()), agent.config.learning_rate)
        assert_same(networks, of_actor_critic(model.policy))
        ours, theirs = agent.policy.distribution.log_std.detach(), model.policy.log_std.detach()
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-6)
    assert (agent.policy.network.vector - before).abs().max() > 1e-4


def their_environment():
    from stable_baselines3.common.env_util import make_vec_env

    return make_vec_env(ENVIRONMENT, PLAIN["num_envs"], seed=7)


def test_updates_of_a2c_are_stable_baselines3s():
    model = peers.A2C("MlpPolicy", their_environment(), seed=7, device="cpu")
    agent = A2C(opened(ENVIRONMENT, 4), A2CConfig(**PLAIN, optimizer="rmsprop-pytorch"))
    check_on_policy(agent, model)


def test_updates_of_ppo_are_stable_baselines3s_where_neither_clips_gradients():
    settings = {"batch_size": 128, "n_steps": 32, "n_epochs": 1, "max_grad_norm": UNCLIPPED}
    model = peers.PPO("MlpPolicy", their_environment(), seed=7, device="cpu", **settings)
    config = PPOConfig(
        **PLAIN, minibatch_size=128, epochs=1, max_gradient_norm=UNCLIPPED, value_coefficient=1.0, learning_rate=3e-4
    )
    check_on_policy(PPO(opened(ENVIRONMENT, 4), config), model)


def test_critic_steps_and_targets_of_ddpg_are_stable_baselines3s(monkeypatch):
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    # Of its policy's steps ours take the same direction but for the order: it climbs the critic as it was before.
    settings = {"batch_size": 64, "policy_kwargs": {"optimizer_kwargs": {"eps": 1e-5}}}
    model = peers.DDPG("MlpPolicy", their_environment(), seed=7, device="cpu", **settings)
    model._setup_learn(0)
    config = DDPGConfig(num_envs=4, hidden_sizes=(400, 300), saturation_penalty=0.0, buffer_size=1000)
    agent = DDPG(opened(ENVIRONMENT, 4), config)
    critic, target_critic = agent.critics[0], agent.target_critics[0]
    restore(critic, layers(model.critic))
    restore(target_critic, layers(model.critic))
    generator = torch.Generator().manual_seed(3)
    for _ in range(UPDATES):
        observation, following = torch.randn(2, 64, 3, generator=generator)
        action, reward = torch.rand(64, 1, generator=generator) * 2 - 1, torch.randn(64, 1, generator=generator)
        ended = (torch.rand(64, 1, generator=generator) < 0.2).float()
        drawn = ReplayBufferSamples(observation, action, following, ended, reward)
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, drawn=drawn, **__: drawn)
        restore(agent.target_actor, layers(model.actor_target))
        model.train(1)
        table = torch.cat([observation, action, following, reward, config.gamma * (1 - ended)], 1)
        agent.improve_critics(Minibatch(torch.arange(64), table, 1), 0.0)
        polyak_update(target_critic, critic, config.tau)
        assert_same({"critic": critic}, {"critic": layers(model.critic)})
        assert_same({"critic": target_critic}, {"critic": layers(model.critic_target)})


def of_squashed_gaussian(actor):
    """SB3's actor with its two output layers side by side."""
    tensors = layers(actor.latent_pi)
    outputs = actor.mu, actor.log_std
    tensors["2.weight"] = torch.cat([layer.weight.detach().t() for layer in outputs], 1)
    tensors["2.bias"] = torch.cat([layer.bias.detach() for layer in outputs])
    return tensors


def test_updates_of_sac_are_stable_baselines3s(monkeypatch):
    """All of a gradient step, in SB3's order: its actor climbs the critics after their step, ours those before."""
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    settings = {"batch_size": 64, "policy_kwargs": {"optimizer_kwargs": {"eps": 1e-5}}}
    model = peers.SAC("MlpPolicy", their_environment(), seed=7, device="cpu", **settings)
    model._setup_learn(0)
    model.actor.action_dist.epsilon = 0.0  # their guard of the logarithm, which ours does without
    agent = SAC(opened(ENVIRONMENT, 4), SACConfig(num_envs=4, buffer_size=1000))
    assert agent.target_entropy == model.target_entropy

    def theirs():
        return {
            "actor": of_squashed_gaussian(model.actor),
            **{f"critic {index}": layers(critic) for index, critic in enumerate(model.critic.q_networks)},
            **{f"target {index}": layers(critic) for index, critic in enumerate(model.critic_target.q_networks)},
        }

    networks = {"actor": agent.actor, "critic 0": agent.critics[0], "critic 1": agent.critics[1],
                "target 0": agent.target_critics[0], "target 1": agent.target_critics[1]}  # fmt: skip
    for name, tensors in theirs().items():
        restore(networks[name], tensors)
    before = agent.actor.vector.detach().clone()
    generator = torch.Generator().manual_seed(3)
    for _ in range(UPDATES):
        observation, following = torch.randn(2, 64, 3, generator=generator)
        action, reward = torch.rand(64, 1, generator=generator) * 2 - 1, torch.randn(64, 1, generator=generator)
        ended = (torch.rand(64, 1, generator=generator) < 0.2).float()
        noise, next_noise = torch.randn(2, 64, 1, generator=generator)
        drawn = ReplayBufferSamples(observation, action, following, ended, reward)
        monkeypatch.setattr(model.replay_buffer, "sample", lambda *_, drawn=drawn, **__: drawn)
        samples = iter((noise, next_noise)).__next__
        monkeypatch.setattr(torch.distributions.normal, "_standard_normal", lambda *_, draw=samples, **__: draw())
        model.train(1)

        table = torch.cat([observation, action, following, reward, agent.config.gamma * (1 - ended)], 1)
        temperature = agent.temperature.log.detach().exp()
        hard_update(agent.previous_actor, agent.actor)
        agent.improve_critics(Minibatch(torch.arange(64), table, 1), next_noise, temperature, 0.0)
        for previous, critic, target in zip(agent.previous_critics, agent.critics, agent.target_critics, strict=True):
            hard_update(previous, critic)
            polyak_update(target, critic, agent.config.tau)
        agent.improve_actor(observation, noise, temperature, 0.0)
        assert_same(networks, theirs())
        assert agent.temperature.log.item() == pytest.approx(model.log_ent_coef.item(), rel=1e-5)
    assert (agent.actor.vector - before).abs().max() > 1e-4
    assert abs(agent.temperature.log.item()) > 1e-4
