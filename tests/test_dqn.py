import gymnasium
import numpy as np
import pytest
import torch
from agent_doubles import NEXT_STEP, SAME_STEP, Spot

from gantry.agents.dqn import DQN, DQNConfig, best_value, duel, duel_backward, huber
from gantry.errors import GantryError

SMALL = {"num_envs": 16, "warm_up_steps": 200, "batch_size": 64, "hidden_sizes": (32, 32), "gamma": 0.5,
         "learning_rate": 3e-3, "target_every": 20}  # fmt: skip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Formulas


def test_huber_loss_is_pytorchs_and_its_slope_the_clipped_error():
    error = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    loss = huber(error)
    reference = torch.nn.functional.huber_loss(error.detach(), torch.zeros(7), reduction="none")
    torch.testing.assert_close(loss, reference)
    loss.sum().backward()
    torch.testing.assert_close(error.grad, error.detach().clamp(-1.0, 1.0))


def test_duelling_values_by_hand_and_their_gradient_by_automatic_differentiation():
    outputs = torch.tensor([[10.0, 1.0, 2.0, 6.0]], requires_grad=True)
    values = duel(outputs)
    torch.testing.assert_close(values, torch.tensor([[8.0, 9.0, 13.0]]))
    gradient = torch.tensor([[0.5, -1.0, 2.0]])
    (expected,) = torch.autograd.grad(values, outputs, gradient)
    torch.testing.assert_close(duel_backward(gradient), expected)


def test_double_q_learning_chooses_by_one_network_and_values_by_the_other():
    values, chooser = torch.tensor([[1.0, 5.0], [2.0, 3.0]]), torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    torch.testing.assert_close(best_value(values, values), torch.tensor([5.0, 3.0]))
    torch.testing.assert_close(best_value(values, chooser), torch.tensor([1.0, 3.0]))


class Recorder:
    """Takes gradients and goes nowhere."""

    def step(self, gradients, learning_rate, scale):
        self.gradient = gradients[0]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("duelling", [False, True])
@pytest.mark.parametrize("prioritized", [False, True])
def test_a_gradient_step_is_that_of_automatic_differentiation(double, duelling, prioritized):
    config = DQNConfig(**{**SMALL, "warm_up_steps": 160, "report_every": 10}, double=double, duelling=duelling,
                       prioritized=prioritized)  # fmt: skip
    agent = DQN(Spot(discrete=True, terminal=True), config)
    agent.learn(160)
    network, target_network = agent.networks["values"], agent.targets["values"]
    with torch.no_grad():
        for index, each in enumerate((network, target_network)):
            each.vector += torch.randn(each.vector.shape, generator=generator(index)) * 0.5
        if prioritized:
            agent._priorities.update(torch.arange(160), torch.linspace(0.1, 4.0, 160))
        batch = agent._draw(64, 0.0)

    def q(each, inputs):
        outputs = each(inputs)
        if duelling:
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
    agent.optimizers["values"] = Recorder()
    with torch.no_grad():
        figures = agent._fit(batch, 0.0)
    torch.testing.assert_close(agent.optimizers["values"].gradient, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(figures, torch.stack([loss, chosen.mean()]).detach())
    if prioritized:  # what was learned from is drawn by its new error
        row = batch.rows.numpy()[-1]
        weight = (abs((chosen - target)[-1].item()) + 1e-6) ** 0.6
        assert agent._priorities._tree.get(np.array([row]))[0] == pytest.approx(weight, rel=1e-4)


def test_the_target_network_follows_every_so_many_gradient_steps():
    agent = DQN(Spot(discrete=True), DQNConfig(**{**SMALL, "warm_up_steps": 0, "target_every": 3}))
    same = []
    for _ in range(7):
        agent.learn(agent.steps + 16)
        same.append(torch.equal(agent.networks["values"].vector, agent.targets["values"].vector))
    assert same == [False, False, True, False, False, True, False]


def test_minibatches_of_one_round_are_each_spread_over_all_priorities():
    agent = DQN(Spot(discrete=True), DQNConfig(**{**SMALL, "updates": 2}, prioritized=True))
    agent.learn(192)
    agent._priorities.update(torch.arange(192), torch.ones(192))
    for part in agent._draw(128, 0.0).split(2):
        assert len(part.rows) == len(part.weights) == len(part.table) == 64
        assert np.histogram(part.rows, 4, (0, 192))[0].tolist() == [16] * 4


# Learning


@pytest.mark.parametrize("mode", [SAME_STEP, NEXT_STEP], ids=str)
@pytest.mark.parametrize("options", [{}, {"double": True, "duelling": True, "prioritized": True, "n_step": 3}])
def test_it_learns_the_sign_of_the_spot(mode, options):
    agent = DQN(Spot(discrete=True, mode=mode), DQNConfig(**SMALL, **options))
    agent.learn(4_000)
    spots = np.linspace(-0.9, 0.9, 10, dtype=np.float32)
    actions = agent.act(np.stack([spots, np.full(10, 0.4, np.float32)], 1))
    assert (actions == (spots > 0)).mean() >= 0.9


def test_action_values_are_those_that_actions_are_chosen_by():
    agent = DQN(Spot(discrete=True), DQNConfig(**SMALL))
    agent.learn(4_000)
    observations = np.stack([np.array([-0.8, -0.5, 0.5, 0.8], np.float32), np.full(4, 0.4, np.float32)], 1)
    values = agent.action_values(observations)
    assert values.shape == (4, 2)
    assert np.array_equal(values.argmax(1), agent.act(observations))
    np.testing.assert_array_equal(agent.action_values(observations[1]), agent.action_values(observations[1:2])[0])
    # A reward of 1 for the right action and 0 for the other, then 1 a step, discounted by 0.5.
    np.testing.assert_allclose(values, [[2.0, 1.0], [2.0, 1.0], [1.0, 2.0], [1.0, 2.0]], atol=0.3)


def test_exploration_falls_from_random_to_greedy_on_schedule():
    config = DQNConfig(**{**SMALL, "warm_up_steps": 0}, epsilon_fraction=0.5, epsilon_end=0.0, report_every=1)
    agent = DQN(Spot(discrete=True), config)
    seen = []
    agent.learn(3_200, lambda _, row: seen.append(row["epsilon"]))
    np.testing.assert_allclose(seen, np.maximum(0.0, 1.0 - np.arange(1, 201) / 100), atol=1e-12)
    actions = agent._buffer.gather(torch.arange(160)).action
    assert 0.25 < actions.mean() < 0.75


def test_actions_that_are_not_discrete_are_refused():
    with pytest.raises(GantryError, match="ddpg or ppo"):
        DQN.check_spaces(gymnasium.spaces.Box(-1.0, 1.0, (2,)), gymnasium.spaces.Box(-1.0, 1.0, (1,)))
