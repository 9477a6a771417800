import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Spot

from gantry.agents.dqn import DQN, DQNConfig, best_value, duel, duel_gradient, value_loss
from gantry.errors import GantryError
from gantry.spaces.maps import Spaces

SMALL = {"num_envs": 16, "learning_starts": 200, "batch_size": 64, "hidden_sizes": (32, 32), "gamma": 0.5,
         "learning_rate": 3e-3, "target_update_interval": 20}  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Formulas


def test_value_loss_by_hand_and_its_gradient_is_the_clipped_error():
    target = torch.tensor([1.0, 2.0, 0.0, -1.0, 0.5, 1.0, 2.0])
    error = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.5, 1.0, 2.0])
    weights = torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0, 0.25, 1.0])
    for given, weight in ((None, torch.ones(7)), (weights, weights)):
        value = (target + error).requires_grad_()
        loss, gradient = value_loss(value, target, given)
        losses = torch.nn.functional.huber_loss(value, target, reduction="none")
        torch.testing.assert_close(losses, torch.where(error.abs() <= 1.0, 0.5 * error.square(), error.abs() - 0.5))
        torch.testing.assert_close(loss, (losses * weight).mean())
        torch.testing.assert_close(gradient, error.clamp(-1.0, 1.0) * weight / 7)
        torch.testing.assert_close(gradient, torch.autograd.grad((losses * weight).mean(), value)[0])


def test_dueling_values_by_hand():
    outputs = torch.tensor([[10.0, 1.0, 2.0, 6.0]])
    torch.testing.assert_close(duel(outputs), torch.tensor([[8.0, 9.0, 13.0]]))


def test_duel_gradient_matches_autograd():
    outputs = torch.randn(5, 4, generator=generator(), requires_grad=True)
    gradient = torch.randn(5, 3, generator=generator(1))
    (expected,) = torch.autograd.grad(duel(outputs), outputs, gradient)
    torch.testing.assert_close(duel_gradient(gradient), expected)


def test_double_q_learning_by_hand():
    values, chooser = torch.tensor([[1.0, 5.0], [2.0, 3.0]]), torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    torch.testing.assert_close(best_value(values, values), torch.tensor([5.0, 3.0]))
    torch.testing.assert_close(best_value(values, chooser), torch.tensor([1.0, 3.0]))


class Recorder:
    """An optimizer that notes gradients and moves nothing."""

    def __init__(self, network):
        self.parameters, self.steps = [network.vector], 0

    def step(self, gradients, learning_rate, scale):
        self.gradient = gradients[0]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("prioritized", [False, True])
def test_gradient_step_matches_naive_target_and_loss(double, dueling, prioritized):
    config = DQNConfig(**{**SMALL, "learning_starts": 160, "report_every": 10}, double=double, dueling=dueling,
                       prioritized=prioritized)  # fmt: skip
    agent = DQN(Spot(discrete=True, terminal=True), config)
    agent.learn(160)
    network, target_network = agent.network, agent.target_network
    with torch.no_grad():
        for index, each in enumerate((network, target_network)):
            each.vector += torch.randn(each.vector.shape, generator=generator(index)) * 0.5
    if prioritized:
        agent.priorities.update(torch.arange(160), torch.linspace(0.1, 4.0, 160))
    batch = agent.replay.sample(64, 0.0)

    def q(each, inputs):
        outputs = each(inputs)
        if dueling:
            return outputs[:, :1] + outputs[:, 1:] - outputs[:, 1:].mean(1, keepdim=True)
        return outputs

    rows = torch.arange(64)
    with torch.no_grad():
        following = q(target_network, batch.next_observation)
        best = (q(network, batch.next_observation) if double else following).argmax(1)
        target = batch.reward + batch.discount * following[rows, best]
    chosen = q(network, batch.observation)[rows, batch.action[:, 0].long()]
    losses = torch.nn.functional.huber_loss(chosen, target, reduction="none")
    assert (batch.weights is not None) == prioritized
    loss = (losses * batch.weights).mean() if prioritized else losses.mean()
    (expected,) = torch.autograd.grad(loss, network.vector)
    agent.optimizer = Recorder(network)
    metrics = agent.improve(batch, 0.0)
    torch.testing.assert_close(agent.optimizer.gradient, expected, rtol=1e-4, atol=1e-6)
    assert metrics == pytest.approx((loss.item(), chosen.mean().item()), rel=1e-5)
    if prioritized:  # what was learned from is sampled by its new error
        weight = (abs((chosen - target)[-1].item()) + 1e-6) ** 0.6
        assert agent.priorities.state()["weights"][batch.indices[-1]] == pytest.approx(weight, rel=1e-4)


def test_target_update_interval_counts_gradient_steps():
    agent = DQN(Spot(discrete=True), DQNConfig(**{**SMALL, "learning_starts": 0, "target_update_interval": 3}))
    same = []
    for _ in range(7):
        agent.learn(agent.steps + 16)
        same.append(torch.equal(agent.network.vector, agent.target_network.vector))
    assert same == [False, False, True, False, False, True, False]


def test_minibatches_of_one_update_each_cover_all_priorities():
    agent = DQN(Spot(discrete=True), DQNConfig(**{**SMALL, "gradient_steps": 2}, prioritized=True))
    agent.learn(192)
    agent.priorities.update(torch.arange(192), torch.ones(192))
    for part in agent.replay.sample(128, 0.0).split(2):
        assert len(part.indices) == len(part.weights) == len(part.table) == 64
        assert np.histogram(part.indices, 4, (0, 192))[0].tolist() == [16] * 4


# Learning


@pytest.mark.parametrize("mode", [pytest.param(SAME_STEP, marks=pytest.mark.slow), NEXT_STEP], ids=str)
@pytest.mark.parametrize("options", [{}, {"double": True, "dueling": True, "prioritized": True, "n_step": 3}])
def test_learns_discrete_actions(mode, options):
    agent = DQN(Spot(discrete=True, mode=mode), DQNConfig(**SMALL, **options))
    agent.learn(4_000)
    spots = np.linspace(-0.9, 0.9, 10, dtype=np.float32)
    actions = agent.act(np.stack([spots, np.full(10, 0.4, np.float32)], 1))
    assert (actions == (spots > 0)).mean() >= 0.9


def test_action_values_are_those_that_actions_maximize():
    agent = DQN(Spot(discrete=True), DQNConfig(**SMALL))
    agent.learn(4_000)
    observations = np.stack([np.array([-0.8, -0.5, 0.5, 0.8], np.float32), np.full(4, 0.4, np.float32)], 1)
    values = agent.action_values(observations)
    assert values.shape == (4, 2)
    assert np.array_equal(values.argmax(1), agent.act(observations))
    np.testing.assert_array_equal(agent.action_values(observations[1]), agent.action_values(observations[1:2])[0])
    # A reward of 1 for the right action and 0 for the other, then 1 a step, discounted by 0.5.
    np.testing.assert_allclose(values, [[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0]], atol=0.3)


def test_epsilon_follows_its_schedule():
    config = DQNConfig(**{**SMALL, "learning_starts": 0}, epsilon_fraction=0.5, epsilon_end=0.0, report_every=1)
    agent = DQN(Spot(discrete=True), config)
    seen = []
    agent.learn(3_200, lambda _, row: seen.append(row["epsilon"]))
    np.testing.assert_allclose(seen, np.maximum(0.0, 1.0 - np.arange(1, 201) / 100), atol=1e-12)
    actions = agent.replay.buffer.gather(torch.arange(160)).action
    assert 0.25 < actions.mean() < 0.75


def test_box_actions_are_refused():
    with pytest.raises(GantryError, match="use ddpg, sac or ppo"):
        DQN(Spaces(gymnasium.spaces.Box(-1.0, 1.0, (2,)), gymnasium.spaces.Box(-1.0, 1.0, (1,))))


def test_several_choices_are_refused():
    with pytest.raises(GantryError, match=r"\); use ppo$"):
        DQN(Spaces(gymnasium.spaces.Box(-1.0, 1.0, (2,)), gymnasium.spaces.MultiBinary(2)))
