"""A2C: its returns, its loss and its steps against the same mathematics written out, and that it learns."""

import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Spot, Wage
from agent_states import collected
from small_mdp import SmallMDP, gradient, one_hot, returns_by_hand, trajectories

from gantry.agents.a2c import A2C, A2CConfig, policy_loss, value_loss
from gantry.agents.parts.optim import descend
from gantry.agents.parts.rmsprop import RMSprop
from gantry.errors import GantryError
from gantry.machine.threads import torch_threads


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):
        yield


def leaves(tensors, network):
    """The parameters of a network as separate leaf tensors: weight, bias, weight, …"""
    parts = [tensor for name, tensor in tensors.items() if name.startswith(f"{network}.")]
    return [part.clone().requires_grad_() for part in parts]


def forward(parts, inputs):
    """What a tanh network of these parameters returns."""
    hidden = inputs
    for index in range(0, len(parts) - 2, 2):
        hidden = torch.tanh(hidden @ parts[index] + parts[index + 1])
    return hidden @ parts[-2] + parts[-1]


# Returns


def test_targets_are_n_step_returns_from_the_observation_before_the_reset():
    """Up to five real rewards, then a value: of the last state, or of the last observation before a time limit."""
    env = Spot(3, length=4)
    config = A2CConfig(gamma=0.9, normalize_return=False, normalize_observation=False)
    agent = A2C(env, config)
    agent.stepper.begin_episodes()
    rewards, dones, following, step = [], [], [], env.step

    def recording(actions):
        observation, reward, terminated, truncated, infos = step(actions)
        rewards.append(reward)
        dones.append(truncated)
        following.append(np.where(truncated[:, None], infos.get("final_obs", observation), observation))
        return observation, reward, terminated, truncated, infos

    env.step = recording
    batch = collected(agent)
    for row in range(3):
        for start in range(5):
            target, weight = 0.0, 1.0
            for time in range(start, 5):
                target += weight * rewards[time][row]
                weight *= 0.9
                if dones[time][row] or time == 4:
                    with torch.no_grad():
                        last = torch.from_numpy(following[time][row].astype(np.float32))[None]
                        target += weight * agent.critic(last).item()
                    break
            assert batch.target.reshape(5, 3)[start, row] == pytest.approx(target, abs=1e-5)


@pytest.mark.parametrize(
    ("terminal", "expected"),
    [(False, 1 / (1 - 0.9)), (True, np.mean([(1 - 0.9**left) / (1 - 0.9) for left in range(1, 6)]))],
)
def test_truncation_bootstraps_and_termination_does_not(terminal, expected):
    config = A2CConfig(
        rollout_steps=20, gamma=0.9, gae_lambda=0.95, normalize_return=False, learning_rate=2e-2, optimizer="adam",
        max_gradient_norm=10.0, learning_rate_schedule="linear", hidden_sizes=(16,),
    )  # fmt: skip
    agent = A2C(Wage(terminal=terminal), config)
    agent.learn(16_000)
    assert collected(agent).value.mean() == pytest.approx(expected, rel=0.1 if terminal else 0.02)


# Losses and gradients


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_the_policy_losses_gradient_is_that_of_the_expected_return_whatever_the_critic_says(gamma):
    agent = A2C(SmallMDP(), A2CConfig(hidden_sizes=(), normalize_observation=False))
    with torch.no_grad():
        agent.policy.network.vector.copy_(torch.randn(8, generator=torch.Generator().manual_seed(5)))
    vector = agent.policy.network.vector.detach().numpy().astype(np.float64)
    anything = np.random.default_rng(0).normal(size=3)
    inputs, actions, weighted = [], [], []
    for chance, states, taken, rewards in trajectories(vector, 3):
        inputs += states
        actions += taken
        for time, back in enumerate(returns_by_hand(rewards, gamma)):
            weighted.append(chance * gamma**time * (back - anything[states[time]]))
    output = agent.policy.network(one_hot(inputs))
    log_probability = agent.policy.distribution.log_prob(output, torch.tensor(actions))
    loss = len(weighted) * policy_loss(log_probability, torch.tensor(weighted).float())
    (slope,) = torch.autograd.grad(loss, agent.policy.network.vector)
    np.testing.assert_allclose(-slope.numpy(), gradient(vector, gamma, 3), atol=5e-6)


def test_value_loss_by_hand():
    assert value_loss(torch.tensor([2.0, 0.0]), torch.tensor([3.0, 2.0])) == (1 + 4) / 2


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("discrete", [False, True])
def test_an_update_is_a_clipped_step_down_the_loss_written_out(shared, discrete):
    """The networks rebuilt from PyTorch's operations, the loss from torch.distributions, RMSprop from its formula."""
    config = A2CConfig(
        shared_body=shared, hidden_sizes=(8, 8), entropy_coefficient=0.02, max_gradient_norm=0.3, learning_rate=0.01
    )
    agent = A2C(Spot(discrete=discrete), config, seed=2)
    agent.learn(800)
    tensors = agent.checkpoint.state()
    squares = [tensors[f"optimizer.squares.{index}"] for index in range(len(agent.optimizer.parameters))]
    batch = collected(agent)
    names = ["body"] if shared else ["policy.network", "critic"]
    rebuilt = [leaves(tensors, name) for name in names]
    if shared:
        both = forward(rebuilt[0], batch.inputs)
        output, value = both[:, :-1], both[:, -1]
    else:
        output, value = forward(rebuilt[0], batch.inputs), forward(rebuilt[1], batch.inputs)[:, 0]
    parameters = [leaf for parts in rebuilt for leaf in parts]
    if discrete:
        distribution = torch.distributions.Categorical(logits=output)
    else:
        log_std = agent.policy.distribution.log_std.detach().clone().requires_grad_()
        parameters.append(log_std)
        distribution = torch.distributions.Independent(torch.distributions.Normal(output, log_std.exp()), 1)
    loss = (
        -(distribution.log_prob(batch.samples) * batch.advantage).mean()
        - 0.02 * distribution.entropy().mean()
        + 0.5 * (value - batch.target).square().mean()
    )
    slopes = torch.autograd.grad(loss, parameters)
    norm = float(torch.sqrt(sum(slope.square().sum() for slope in slopes)))
    assert norm > 0.3
    flat_slope = torch.cat([slope.reshape(-1) for slope in slopes]) * 0.3 / norm
    flat = torch.cat([leaf.detach().reshape(-1) for leaf in parameters])
    square = 0.99 * torch.cat([part.reshape(-1) for part in squares]) + 0.01 * flat_slope**2
    expected = flat - 0.01 * flat_slope / torch.sqrt(square + 1e-5)
    agent.improve(batch, 0.01)
    result = torch.cat([parameter.detach().reshape(-1) for parameter in agent.optimizer.parameters])
    assert (expected - flat).abs().max() > 1e-4
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=2e-6)


def test_a_shared_body_begins_with_the_same_broad_policy_everywhere():
    agent = A2C(Spot(discrete=True), A2CConfig(shared_body=True))
    with torch.no_grad():
        inputs = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        output, value = agent.policy_and_value(inputs)
        torch.testing.assert_close(agent.policy.network(inputs), output)
        torch.testing.assert_close(agent.critic(inputs)[:, 0], value)
    assert output.abs().max() < 0.05
    assert value.abs().max() > 0.1


# RMSprop


def test_rmsprop_in_pytorchs_form_is_pytorchs():
    start = torch.randn(50, generator=torch.Generator().manual_seed(0))
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    optimizer = RMSprop([ours], 0.9, epsilon=0.1, pytorch=True)
    reference = torch.optim.RMSprop([theirs], lr=0.03, alpha=0.9, eps=0.1)
    for step in range(20):
        target = torch.randn(50, generator=torch.Generator().manual_seed(100 + step))
        descend((ours - target).square().sum(), optimizer, 0.03, max_gradient_norm=4.0)
        theirs.grad = None
        (theirs - target).square().sum().backward()
        torch.nn.utils.clip_grad_norm_([theirs], 4.0)
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rmsprops_first_step_by_hand():
    parameter = torch.tensor([1.0]).requires_grad_()
    RMSprop([parameter], 0.9, epsilon=0.3).step([torch.tensor([2.0])], 0.5)
    # The mean square begins at 1: g = 0.9 + 0.1 · 4 = 1.3, and ε is under the root.
    assert parameter.item() == pytest.approx(1.0 - 0.5 * 2.0 / np.sqrt(1.3 + 0.3))


def test_rmsprop_is_stable_baselines3s():
    theirs = pytest.importorskip("stable_baselines3.common.sb2_compat.rmsprop_tf_like").RMSpropTFLike
    start = torch.randn(20, generator=torch.Generator().manual_seed(0))
    mine, other = start.clone().requires_grad_(), start.clone().requires_grad_()
    optimizer, reference = RMSprop([mine]), theirs([other], lr=7e-4, alpha=0.99, eps=1e-5)
    for _ in range(30):
        descend(mine.pow(4).sum(), optimizer, 7e-4)
        other.grad = None
        other.pow(4).sum().backward()
        reference.step()
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


# Learning

ADAM = {"optimizer": "adam", "learning_rate": 3e-3, "gamma": 0.5}


@pytest.mark.parametrize(
    ("shared", "mode"),
    [*(pytest.param(False, mode, marks=pytest.mark.slow) for mode in (SAME_STEP, NEXT_STEP)), (True, NEXT_STEP)],
    ids=str,
)
def test_learns_discrete_actions(shared, mode):
    agent = A2C(Spot(discrete=True, mode=mode), A2CConfig(shared_body=shared, **ADAM), seed=1)
    agent.learn(9_000)
    assert agent.stepper.metrics()["reward_mean"] > 0.85
    assert agent.act(np.array([[-0.5, 0.2], [0.5, 0.2]])).tolist() == [0, 1]


@pytest.mark.parametrize("squash", [pytest.param(False, marks=pytest.mark.slow), True])
def test_learns_continuous_actions(squash):
    # A narrow start: with broad noise that the bounds cut off, the best mean is beyond the spot.
    config = A2CConfig(
        squash_actions=squash, initial_log_std=-1.0, learning_rate=1e-2, learning_rate_schedule="linear",
        optimizer="adam", gamma=0.5,
    )  # fmt: skip
    agent = A2C(Spot(), config, seed=1)
    agent.learn(12_000)
    spots = np.linspace(-0.6, 0.6, 5, dtype=np.float32)
    actions = agent.act(np.stack([spots, np.full(5, 0.4, np.float32)], 1))
    np.testing.assert_allclose(actions[:, 0], spots, atol=0.2)


def test_rmsprop_learns_too():
    config = A2CConfig(learning_rate=7e-3, gamma=0.5, rmsprop_decay=0.9)
    agent = A2C(Spot(discrete=True), config, seed=1)
    agent.learn(16_000)
    assert agent.stepper.metrics()["reward_mean"] > 0.85


def test_a_row_of_metrics_stands_for_several_updates():
    rows = []
    A2C(Spot(), A2CConfig(report_every=4)).learn(5 * 16 * 10, lambda _, row: rows.append(row["steps"]))
    assert rows == [320, 640, 800]


@pytest.mark.parametrize("settings", [{"optimizer_epsilon": 0.0}, {"rmsprop_decay": 1.0}, {"report_every": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(GantryError, match=next(iter(settings))):
        A2CConfig(**settings)
