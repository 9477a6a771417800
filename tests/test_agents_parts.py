"""The pieces that agents share, each held against an independent implementation of the same mathematics."""

import json
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gantry.agents
from gantry.agents.parts.categorical import Categorical, MultiCategorical
from gantry.agents.parts.checkpoint import restore, state_of
from gantry.agents.parts.gaussian import Gaussian, gaussian_entropy, gaussian_log_prob
from gantry.agents.parts.network_pass import Pass
from gantry.agents.parts.networks import MLP
from gantry.agents.parts.normalization import ObservationNormalizer, ReturnNormalizer, RunningMoments
from gantry.agents.parts.optim import Adam, joint_norm
from gantry.agents.parts.squashed import SquashedGaussian, squashed_entropy, squashed_log_prob
from gantry.errors import GantryError
from gantry.files import space_from_json, space_to_json
from gantry.machine.threads import torch_threads
from gantry.spaces.maps import ActionMap, ObservationMap

ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "elu": torch.nn.ELU}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# Registry


def test_agents_are_found_by_name_whatever_its_case():
    assert gantry.agents.agent_class("PPO") is gantry.agents.agent_class("ppo")
    assert set(gantry.agents.AGENTS) == set(gantry.agents.DESCRIPTIONS)


def test_an_unknown_agent_is_named_with_the_nearest_ones():
    with pytest.raises(GantryError, match="did you mean ppo"):
        gantry.agents.agent_class("poo")
    with pytest.raises(GantryError, match="there are"):
        gantry.agents.agent_class("zzz")


def test_importing_the_registry_imports_no_pytorch():
    code = "import sys, gantry.agents; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Networks


def twin(network):
    """The same network, made of PyTorch's own layers."""
    layers = []
    for index, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        linear = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(weight.t())
            linear.bias.copy_(bias)
        layers.append(linear)
        if index < len(network.weights) - 1:
            layers.append(ACTIVATIONS[network.activation]())
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(3, 2), (3, 8, 2), (5, 16, 12, 1)])
def test_outputs_and_gradients_are_those_of_automatic_differentiation(activation, sizes):
    network = MLP(sizes, activation, 1.0, generator())
    with torch.no_grad():
        network.vector += 0.3 * torch.randn(network.vector.shape, generator=generator(1))
    reference = twin(network)
    inputs = torch.randn(7, sizes[0], generator=generator(2), requires_grad=True)
    same_inputs = inputs.detach().clone().requires_grad_()
    outputs, expected = network(inputs), reference(same_inputs)
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(network(inputs), expected, rtol=1e-5, atol=1e-6)
    outputs.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(inputs.grad, same_inputs.grad, rtol=1e-4, atol=1e-5)
    linears = [layer for layer in reference if isinstance(layer, torch.nn.Linear)]
    flat = torch.cat([part.reshape(-1) for linear in linears for part in (linear.weight.grad.t(), linear.bias.grad)])
    torch.testing.assert_close(network.vector.grad, flat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(3, 2), (5, 16, 12, 1)])
def test_input_gradient_of_a_frozen_network_matches_autograd(activation, sizes):
    """A critic that a policy climbs: its own parameters need no gradient."""
    network = MLP(sizes, activation, 1.0, generator())
    reference, inputs = twin(network), torch.randn(7, sizes[0], generator=generator(2), requires_grad=True)
    (expected,) = torch.autograd.grad(reference(inputs).square().sum(), inputs)
    network.vector.requires_grad_(False)
    (found,) = torch.autograd.grad(network(inputs).square().sum(), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(3, 2), (5, 16, 12, 1)])
def test_a_pass_without_a_graph_gives_the_gradients_of_autograd(activation, sizes):
    network = MLP(sizes, activation, 1.0, generator())
    inputs = torch.randn(7, sizes[0], generator=generator(2), requires_grad=True)
    outputs = network(inputs)
    expected = torch.autograd.grad(outputs.square().sum(), [network.vector, inputs])
    runs = [Pass(network, inputs.detach()) for _ in range(2)]
    torch.testing.assert_close(runs[0].outputs, outputs, rtol=0, atol=0)
    found = runs[0].gradient(2.0 * runs[0].outputs), runs[1].input_gradient(2.0 * runs[1].outputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_two_passes_in_one_graph_do_not_disturb_each_other():
    network = MLP((3, 8, 1), "tanh", 1.0, generator())
    reference = twin(network)
    first, second = torch.randn(2, 6, 3, generator=generator(1))
    (network(first).square().sum() + network(second).exp().sum()).backward()
    (reference(first).square().sum() + reference(second).exp().sum()).backward()
    torch.testing.assert_close(network.vector.grad[-1:], reference[-1].bias.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.weights[0].shape, torch.Size([3, 8]))
    gradient = network.vector.grad[:24].view(3, 8)
    torch.testing.assert_close(gradient, reference[0].weight.grad.t(), rtol=1e-4, atol=1e-5)


def test_a_pass_is_gone_back_through_once():
    network = MLP((3, 8, 1), "tanh", 1.0, generator())
    loss = network(torch.ones(2, 3)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_the_quick_tanh_is_tanh():
    network = MLP((1, 1, 1), "tanh", 1.0, generator())
    with torch.no_grad():
        network.vector.copy_(torch.tensor([1.0, 0.0, 1.0, 0.0]))
        inputs = torch.linspace(-12, 12, 4001)[:, None]
        torch.testing.assert_close(network(inputs), torch.tanh(inputs), rtol=0, atol=3e-7)


def test_weights_start_orthogonal_and_come_back_from_their_state():
    network = MLP((16, 8, 3), "tanh", 0.01, generator())
    gain = torch.nn.init.calculate_gain("tanh")
    torch.testing.assert_close(network.weights[0].t() @ network.weights[0], gain**2 * torch.eye(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(network.weights[1].t() @ network.weights[1], 1e-4 * torch.eye(3), rtol=0, atol=1e-8)
    other = MLP((16, 8, 3), "tanh", 0.01, generator(1))
    restore(other, state_of(network))
    assert torch.equal(other.vector, network.vector)


def test_adam_is_pytorchs_adam():
    start = torch.randn(50, generator=generator())
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    adam, reference = Adam([ours], epsilon=1e-5), torch.optim.Adam([theirs], lr=0.03, eps=1e-5)
    for step in range(20):
        target = torch.randn(50, generator=generator(100 + step))
        gradients = torch.autograd.grad((ours - target).square().sum(), [ours])
        norm = joint_norm(gradients)
        theirs.grad = None
        (theirs - target).square().sum().backward()
        expected_norm = torch.nn.utils.clip_grad_norm_([theirs], 4.0)
        assert norm == pytest.approx(float(expected_norm), rel=1e-4)
        adam.step(gradients, 0.03, scale=min(1.0, 4.0 / norm))
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# Distributions


def test_gaussian_against_torch_distributions():
    mean, action = torch.randn(2, 11, 3, generator=generator(), dtype=torch.float64)
    log_std = torch.tensor([-1.0, 0.0, 0.7], dtype=torch.float64)
    reference = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    torch.testing.assert_close(gaussian_log_prob(mean, log_std, action), reference.log_prob(action))
    torch.testing.assert_close(gaussian_entropy(log_std), reference.entropy()[0])


def test_squashed_gaussian_against_torch_distributions():
    mean, latent = 2 * torch.randn(2, 11, 3, generator=generator(), dtype=torch.float64)
    log_std = torch.tensor([-1.0, 0.0, 0.7], dtype=torch.float64)
    reference = torch.distributions.Independent(
        torch.distributions.TransformedDistribution(
            torch.distributions.Normal(mean, log_std.exp()), torch.distributions.TanhTransform(cache_size=1)
        ),
        1,
    )
    log_probability = squashed_log_prob(mean, log_std, latent)
    torch.testing.assert_close(log_probability, reference.log_prob(torch.tanh(latent)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.3, -1.0), (2.0, 0.5), (-1.0, 1.0)])
def test_squashed_density_integrates_to_one_and_its_entropy_is_the_integral(mean, log_std):
    """Over the actions themselves, by the trapezoidal rule on points that are dense near the bounds."""
    latent = torch.linspace(-18, 18, 400_001, dtype=torch.float64)
    mean, log_std = torch.tensor([mean], dtype=torch.float64), torch.tensor([log_std], dtype=torch.float64)
    # Where the action is no longer told from its bound in double precision, there is next to nothing of it.
    log_density = squashed_log_prob(mean, log_std, latent[:, None])
    action = torch.tanh(latent)
    assert torch.trapezoid(log_density.exp(), action).item() == pytest.approx(1.0, abs=1e-5)
    entropy = -torch.trapezoid(log_density.exp() * log_density, action)
    assert squashed_entropy(mean.float(), log_std.float()).item() == pytest.approx(entropy.item(), abs=1e-3)


def test_squashed_densities_stay_finite_however_near_to_a_bound():
    distribution = SquashedGaussian(1, 0.0)
    drawn = torch.tensor([[-60.0], [0.0], [60.0]])
    with torch.no_grad():
        log_probability = distribution.log_prob(drawn, drawn)
    # At u, log(1 - tanh²u) is 2 log 2 - 2|u| to within exp(-2|u|).
    assert log_probability[0] == log_probability[2] == pytest.approx(-0.9189 + 120 - 2 * np.log(2), abs=1e-3)
    assert distribution.action(drawn).flatten().tolist() == [-1.0, 0.0, 1.0]


def test_categorical_against_torch_distributions():
    logits = 3 * torch.randn(11, 4, generator=generator(), dtype=torch.float64)
    action = torch.arange(11) % 4
    reference = torch.distributions.Categorical(logits=logits)
    distribution = Categorical(4)
    torch.testing.assert_close(distribution.log_prob(logits, action), reference.log_prob(action))
    entropies = torch.stack([distribution.entropy(row) for row in logits])
    torch.testing.assert_close(entropies, reference.entropy())
    torch.testing.assert_close(distribution.entropy(logits), reference.entropy().mean())


def test_several_choices_against_torch_distributions():
    sizes = [3, 2, 4]
    logits = 3 * torch.randn(11, 9, generator=generator(), dtype=torch.float64)
    action = torch.stack([torch.arange(11) % size for size in sizes], 1)
    references = [torch.distributions.Categorical(logits=part) for part in logits.split(sizes, 1)]
    distribution = MultiCategorical(sizes)
    log_prob = sum(reference.log_prob(action[:, index]) for index, reference in enumerate(references))
    torch.testing.assert_close(distribution.log_prob(logits, action), log_prob)
    torch.testing.assert_close(distribution.entropy(logits), sum(each.entropy().mean() for each in references))
    assert distribution.mode(logits).tolist() == torch.stack([each.probs.argmax(1) for each in references], 1).tolist()
    many = logits[:1].float().expand(20_000, 9)
    samples = distribution.sample(many, distribution.noise((20_000,), generator()))
    for index, reference in enumerate(references):
        frequency = torch.bincount(samples[:, index], minlength=sizes[index]) / 20_000
        torch.testing.assert_close(frequency, reference.probs[0].float(), rtol=0, atol=0.015)
    both = (samples[:, :2] == 0).all(1).float().mean()
    assert both == pytest.approx(float(references[0].probs[0, 0] * references[1].probs[0, 0]), abs=0.015)


def test_pairs_of_logits_are_bernoulli_variables():
    logits = torch.randn(11, 6, generator=generator(), dtype=torch.float64)
    bits = torch.arange(33).reshape(11, 3) % 2
    reference = torch.distributions.Bernoulli(logits=logits[:, 1::2] - logits[:, 0::2])
    distribution = MultiCategorical([2, 2, 2])
    torch.testing.assert_close(distribution.log_prob(logits, bits), reference.log_prob(bits.double()).sum(1))
    torch.testing.assert_close(distribution.entropy(logits), reference.entropy().sum(1).mean())


def test_samples_follow_the_distribution():
    distribution = Gaussian(2, -0.5)
    output = torch.tensor([1.0, -2.0]).expand(20000, 2)
    with torch.no_grad():
        samples = distribution.sample(output, distribution.noise((20000,), generator()))
    torch.testing.assert_close(samples.mean(0), output[0], rtol=0, atol=0.02)
    torch.testing.assert_close(samples.std(0), torch.full((2,), -0.5).exp(), rtol=0.03, atol=0)
    categorical = Categorical(3)
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20000, 3)
    counts = torch.bincount(categorical.sample(logits, categorical.noise((20000,), generator())), minlength=3)
    torch.testing.assert_close(counts / 20000, torch.softmax(logits[0], -1), rtol=0, atol=0.015)
    assert categorical.mode(logits[0]) == 2


# Normalizers


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8), seed=st.integers(0, 1000), shift=st.floats(-1e4, 1e4))
def test_running_moments_are_numpys(sizes, seed, shift):
    rng = np.random.default_rng(seed)
    batches = [rng.normal(shift, 3.0, (size, 2)) for size in sizes]
    moments = RunningMoments(2)
    for batch in batches:
        moments.update(batch)
    everything = np.concatenate(batches)
    assert moments.count == len(everything)
    if len(everything):
        np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(moments.variance, everything.var(0), rtol=1e-6, atol=1e-9)


def test_observations_are_standardized_and_clipped():
    rng = np.random.default_rng(0)
    seen = rng.normal([5.0, -2.0], [3.0, 0.1], (1000, 2)).astype(np.float32)
    normalizer = ObservationNormalizer(2, enabled=True)
    normalizer.update(seen)
    mean, std = seen.mean(0, dtype=np.float64), seen.std(0, dtype=np.float64)
    seen[:100] += 20 * std.astype(np.float32)
    out = np.empty_like(seen)
    normalizer.apply(seen, out)
    np.testing.assert_allclose(out, np.clip((seen - mean) / std, -10, 10), atol=1e-4)
    assert (out[:100] == 10).all()
    again = ObservationNormalizer(2, enabled=True)
    restore(again, state_of(normalizer))
    other = np.empty_like(seen)
    again.apply(seen, other)
    np.testing.assert_array_equal(out, other)


def test_rewards_are_scaled_by_the_discounted_return():
    rewards = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    done = np.zeros((200, 3), bool)
    done[49::50] = True
    normalizer = ReturnNormalizer(3, 0.9, enabled=True)
    parts = [
        normalizer.apply(rewards[:80], done[:80], np.ones((80, 3), bool)),
        normalizer.apply(rewards[80:], done[80:], np.ones((120, 3), bool)),
    ]
    returns, running = [], np.zeros(3)
    for reward, over in zip(rewards.astype(np.float64), done, strict=True):
        running = 0.9 * running + reward
        returns.append(running)
        running = running * ~over
    np.testing.assert_allclose(parts[0], rewards[:80] / np.std(returns[:80]), rtol=1e-4)
    np.testing.assert_allclose(parts[1], rewards[80:] / np.std(returns), rtol=1e-4)


# Spaces


SPACES = [
    gymnasium.spaces.Box(-1.0, 1.0, (3,)),
    gymnasium.spaces.Box(np.array([-2.0, -np.inf]), np.array([4.0, np.inf]), dtype=np.float64),
    gymnasium.spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
    gymnasium.spaces.Box(0, 255, (4,), np.uint8),
    gymnasium.spaces.Discrete(4, start=-1),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_survive_json(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert space_from_json(json.loads(text)) == space


def test_box_actions_are_scaled_and_clipped():
    space = gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([4.0, 1.0], np.float32))
    actions = ActionMap(space).to_environment(np.array([[0.0, 0.0], [1.0, -1.0], [9.0, -9.0]], np.float32))
    np.testing.assert_allclose(actions, [[1.0, 0.5], [4.0, 0.0], [4.0, 0.0]])
    assert actions.dtype == space.dtype
    own = ActionMap(space, scaled=False).to_environment(np.array([[0.5, 0.5], [1.0, -1.0], [9.0, -9.0]], np.float32))
    np.testing.assert_allclose(own, [[0.5, 0.5], [1.0, 0.0], [4.0, 0.0]])
    unbounded = ActionMap(gymnasium.spaces.Box(-np.inf, np.inf, (1,)))
    np.testing.assert_array_equal(unbounded.to_environment(np.array([[123.0]], np.float32)), [[123.0]])


def test_bounds_of_the_largest_float_are_none():
    huge = np.finfo(np.float32).max
    for dtype in (np.float32, np.float64):
        space = gymnasium.spaces.Box(np.array([-huge, -2.0], dtype), np.array([huge, 2.0], dtype), dtype=dtype)
        mapping = ActionMap(space)
        assert mapping.has_bounds.tolist() == [False, True]
        assert not mapping.bounded
        assert mapping.to_environment(np.array([[3.0, 1.0]], np.float32)).tolist() == [[3.0, 2.0]]


def test_several_choices_count_from_their_starts():
    space = gymnasium.spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, -1], [7, 0]]))
    actions = ActionMap(space, several=True).to_environment(np.array([[1, 2, 3, 4], [0, 0, 0, 0]]))
    assert actions.tolist() == [[[1, 1], [10, 4]], [[0, -1], [7, 0]]]
    bits = ActionMap(gymnasium.spaces.MultiBinary(3), several=True).to_environment(np.array([[1, 0, 1]]))
    assert bits.tolist() == [[1, 0, 1]]
    assert bits.dtype == np.int8


def test_discrete_actions_count_from_the_start():
    actions = ActionMap(gymnasium.spaces.Discrete(3, start=-1)).to_environment(np.array([0, 2]))
    assert actions.tolist() == [-1, 1]


@pytest.mark.parametrize(
    ("observations", "actions"),
    [
        (gymnasium.spaces.Text(3), gymnasium.spaces.Discrete(2)),
        (
            gymnasium.spaces.Dict(x=gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(2))),
            gymnasium.spaces.Discrete(2),
        ),
        (gymnasium.spaces.Dict({1: gymnasium.spaces.Discrete(2)}), gymnasium.spaces.Discrete(2)),
        (gymnasium.spaces.Dict(), gymnasium.spaces.Discrete(2)),
        (gymnasium.spaces.Box(-1, 1), gymnasium.spaces.MultiDiscrete([2, 2])),
        (gymnasium.spaces.Box(-1, 1), gymnasium.spaces.Box(0, 3, (1,), np.int64)),
    ],
    ids=str,
)
def test_other_spaces_are_refused(observations, actions):
    def build():
        return ObservationMap(observations), ActionMap(actions)

    with pytest.raises(GantryError, match="must be"):
        build()


GOAL = gymnasium.spaces.Dict(
    achieved=gymnasium.spaces.Box(-1, 1, (2,)),
    room=gymnasium.spaces.Discrete(3, start=1),
    arm=gymnasium.spaces.Box(0, 9),
)


def test_dictionaries_become_vectors_part_after_part_and_categories_a_one_among_zeros():
    mapping = ObservationMap(GOAL)
    batch = {"achieved": np.array([[0.5, -0.5], [1.0, 0.0]]), "room": np.array([3, 1]), "arm": np.array([[7.0], [8.0]])}
    rows = [[0.5, -0.5, 0, 0, 1, 7], [1, 0, 1, 0, 0, 8]]
    columns = {"achieved": slice(0, 2), "room": slice(2, 5), "arm": slice(5, 6)}
    expected = np.concatenate([np.array(rows)[:, columns[key]] for key in GOAL], 1)
    assert mapping.size == 6
    assert mapping.vectors(batch).tolist() == expected.tolist()
    given, single = mapping.given({key: part[1] for key, part in batch.items()})
    assert single
    assert given.tolist() == expected[1:].tolist()
    assert space_from_json(json.loads(json.dumps(space_to_json(GOAL)))) == GOAL


@pytest.mark.parametrize(
    "observation",
    [
        {"achieved": np.zeros(2), "room": 1},
        {"achieved": np.zeros(2), "room": 4, "arm": np.zeros(1)},
        {"achieved": np.zeros(2), "room": 1.5, "arm": np.zeros(1)},
        {"achieved": np.zeros((2, 2)), "room": np.array([1, 2]), "arm": np.zeros((3, 1))},
        {"achieved": np.full(2, np.nan), "room": 1, "arm": np.zeros(1)},
        np.zeros(6),
    ],
)
def test_dictionaries_that_do_not_fit_are_refused(observation):
    with pytest.raises(GantryError, match="observation"):
        ObservationMap(GOAL).given(observation)


def test_thread_count_is_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
