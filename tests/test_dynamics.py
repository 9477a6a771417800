import math

import numpy as np
import pytest
import torch

from gantry.agents.models.calibration import LEVELS, interval_coverage, measure_accuracy, mixture_cdf
from gantry.agents.models.dataset import TransitionDataset, Transitions
from gantry.agents.models.dynamics import DynamicsModel, find_circle_columns, find_integer_columns
from gantry.agents.models.ensemble import (
    BOUNDS_WEIGHT,
    Ensemble,
    EnsembleConfig,
    bound_log_variance,
    ensemble_forward,
    gaussian_nll,
)
from gantry.agents.parts.checkpoint import restore, state_of
from gantry.errors import GantryError
from gantry.machine.threads import torch_threads

A = torch.tensor([[0.9, 0.2], [-0.1, 0.8]])
B = torch.tensor([[0.0], [0.5]])
NOISE = torch.tensor([0.1, 0.3])
SMALL = EnsembleConfig(ensemble_size=3, hidden_sizes=(16, 16), gradient_steps=50)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with torch_threads(1):  # as the planner runs: for networks this small, more threads only wait for each other
        yield


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear_gaussian(number, seed):
    """Return transitions x' = A x + B u + N(0, NOISE²)."""
    random = generator(seed)
    features = torch.randn(number, 2, generator=random)
    actions = torch.rand(number, 1, generator=random) * 2 - 1
    next_features = features @ A.T + actions @ B.T + NOISE * torch.randn(number, 2, generator=random)
    return features, actions, next_features


@pytest.fixture(scope="module")
def fitted():
    random = generator()
    dynamics = DynamicsModel(
        2, 1, EnsembleConfig(ensemble_size=5, hidden_sizes=(32,), gradient_steps=800, patience=30), random
    )
    data = linear_gaussian(4000, 1)
    dynamics.fit(*data, torch.rand(4000, generator=random) < 0.1, random)
    return dynamics


def test_gaussian_nll_matches_torch_distributions():
    random = generator()
    mean, log_variance, target = torch.randn(3, 7, 4, generator=random)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = -2.0 * normal.log_prob(target).mean(-1) - math.log(2 * math.pi)
    torch.testing.assert_close(gaussian_nll(mean, log_variance, target), expected)


def test_log_variance_bounds_clamp_softly():
    low, high = torch.tensor([-10.0]), torch.tensor([0.5])
    held = bound_log_variance(torch.tensor([[-1e4], [1e4], [-5.0]]), low, high)
    assert bool((held >= low).all())
    assert bool((held <= high + 1e-4).all())
    assert abs(float(held[2]) + 5.0) < 0.02


def test_ensemble_batched_forward_matches_loop_over_members():
    ensemble = Ensemble(3, 2, SMALL, generator())
    x = torch.randn(40, 3, generator=generator(1))
    ensemble.fit(x, x[:, :2].square() * 4 + 7, torch.zeros(40, dtype=torch.bool), generator(2))
    mean, log_variance = ensemble.predict(x.expand(3, -1, -1))
    for member in range(3):
        hidden = (x - ensemble.input_mean) / ensemble.input_std
        for weight, bias in zip(ensemble.weights[:-1], ensemble.biases[:-1], strict=True):
            hidden = torch.nn.functional.silu(hidden @ weight[member] + bias[member])
        output = hidden @ ensemble.weights[-1][member] + ensemble.biases[-1][member]
        expected = output[:, :2] * ensemble.output_std + ensemble.output_mean
        torch.testing.assert_close(mean[member], expected, atol=1e-4, rtol=1e-4)
        held = (
            bound_log_variance(output[:, 2:], ensemble.min_log_variance, ensemble.max_log_variance)
            + 2 * ensemble.output_std.log()
        )
        torch.testing.assert_close(log_variance[member], held, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ensemble.mean(x.expand(3, -1, -1)), mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("hidden_sizes", "beta"), [((7,), 0.0), ((6, 5, 4), 0.0), ((6, 5), 0.5)])
def test_ensemble_gradient_matches_autograd(hidden_sizes, beta):
    random = generator()
    settings = EnsembleConfig(ensemble_size=4, hidden_sizes=hidden_sizes, beta_nll=beta)
    ensemble = Ensemble(3, 2, settings, random)
    # Log-variances near both bounds, where the gradients of the bounds matter.
    ensemble.vector.add_(torch.randn(ensemble.vector.shape, generator=random))
    ensemble.min_log_variance.fill_(-1.5)
    x, y = torch.randn(4, 9, 3, generator=random), torch.randn(4, 9, 2, generator=random)
    leaves = [*ensemble.weights, *ensemble.biases, ensemble.min_log_variance, ensemble.max_log_variance]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    layers = len(hidden_sizes) + 1
    low, high = leaves[-2:]
    mean, log_variance = ensemble_forward(x, leaves[:layers], leaves[layers:-2], low, high)
    parts = (y - mean).square() / log_variance.exp() + log_variance
    weighted = (parts * log_variance.detach().exp() ** beta).mean((1, 2))
    expected = torch.autograd.grad(weighted.sum() + BOUNDS_WEIGHT * (high - low).sum(), leaves)
    found, gradient = ensemble.gradient(x, y)
    torch.testing.assert_close(found, gaussian_nll(mean, log_variance, y).mean(1).detach())
    torch.testing.assert_close(gradient, torch.cat([part.flatten() for part in expected]), atol=1e-5, rtol=1e-4)


def test_precomputed_columns_give_same_predictions():
    ensemble = Ensemble(5, 2, SMALL, generator())
    x = torch.randn(3, 6, 5, generator=generator(1))
    precomputed = ensemble.precompute(x[..., 3:])
    torch.testing.assert_close(ensemble.mean(x[..., :3], precomputed), ensemble.mean(x))
    for part, whole in zip(ensemble.predict(x[..., :3], precomputed), ensemble.predict(x), strict=True):
        torch.testing.assert_close(part, whole)


def test_ignored_columns_do_not_affect_predictions():
    random = generator()
    ensemble = Ensemble(3, 1, SMALL, random)
    x = torch.randn(100, 3, generator=random)
    ensemble.fit(
        x, x.sum(1, keepdim=True), torch.zeros(100, dtype=torch.bool), random, torch.tensor([False, True, False])
    )
    moved = x + torch.tensor([0.0, 5.0, 0.0])
    assert torch.equal(ensemble.ensemble_mean(moved), ensemble.ensemble_mean(x))
    assert not torch.equal(ensemble.ensemble_mean(x + 1.0), ensemble.ensemble_mean(x))


def test_beta_nll_learns_structure_that_nll_explains_as_noise():
    random = generator()
    x = torch.randint(2, (400, 4), generator=random).float()
    y = torch.stack([x[:, 0], x[:, 1] * x[:, 2] * (1.0 - x[:, 3])], 1)  # the first is easy, the second is not
    errors = []
    for beta in (0.0, 0.5):
        settings = EnsembleConfig(ensemble_size=3, hidden_sizes=(32, 32), gradient_steps=400, beta_nll=beta)
        ensemble = Ensemble(4, 2, settings, generator(1))
        ensemble.fit(x, y, torch.zeros(400, dtype=torch.bool), generator(2))
        errors.append(float((ensemble.ensemble_mean(x) - y)[:, 1].abs().max()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.2


def arm(number, seed, spread):
    """Return transitions of a two-link arm: angles (2), speeds (2), tip to target (2), target (2)."""
    random = generator(seed)
    targets = torch.randn(number, 2, generator=random)
    angles = (torch.rand(number, 2, generator=random) * 2 - 1) * spread
    speeds, actions = torch.randn(2, number, 2, generator=random)

    def seen(angles, speeds):
        total = angles.sum(1)
        tip = torch.stack([angles[:, 0].cos() + 0.5 * total.cos(), angles[:, 0].sin() + 0.5 * total.sin()], 1)
        return torch.cat([angles, speeds, targets - tip, targets], 1)

    return seen(angles, speeds), actions, seen(angles + 0.05 * speeds, speeds + 0.05 * actions)


@pytest.fixture(scope="module")
def reaching():
    dynamics = DynamicsModel(8, 2, SMALL, generator(), angle_columns=(0, 1))
    dynamics.fit(*arm(200, 1, 1.5), torch.zeros(200, dtype=torch.bool), generator(2))
    return dynamics


def test_kinematics_extrapolate_far_from_data(reaching):
    assert reaching.kinematics.columns.tolist() == [False] * 4 + [True] * 2 + [False] * 2
    features, _, _ = arm(100, 2, 3.0)
    spoilt = features.clone()
    spoilt[:, 4:6] = 7.0
    torch.testing.assert_close(reaching.kinematics.apply(spoilt), features, atol=1e-3, rtol=0)


def test_rollout_computes_kinematic_columns_from_angles(reaching):
    features, _, _ = arm(10, 3, 1.0)
    plans = torch.zeros(10, 4, 2)
    path = reaching.rollout(features, plans, 2, sample=False)
    torch.testing.assert_close(reaching.kinematics.apply(path), path)
    spoilt = features.clone()
    spoilt[:, 4:6] = 7.0
    torch.testing.assert_close(reaching.rollout(spoilt, plans, 2, sample=False), path)
    mean, _ = reaching.predict(features, plans[:, 0])
    torch.testing.assert_close(path[1, 0, :2], mean[:2, 0], atol=1e-5, rtol=1e-4)


def test_kinematics_state_round_trip(reaching):
    other = DynamicsModel(8, 2, SMALL, generator(5), angle_columns=(0, 1))
    restore(other, state_of(reaching))
    assert all(bool(tensor.isfinite().all()) for tensor in state_of(reaching).values())  # files hold nothing else
    features, actions, _ = arm(10, 4, 1.0)
    assert torch.equal(other.predict(features, actions)[0], reaching.predict(features, actions)[0])
    assert state_of(other).keys() == state_of(reaching).keys()


def test_kinematics_reject_columns_independent_of_angles():
    features, actions, next_features = arm(200, 1, 1.5)
    random = torch.randn(2, 200, 2, generator=generator(6))
    features[:, 4:6], next_features[:, 4:6] = random
    dynamics = DynamicsModel(8, 2, SMALL, generator(), angle_columns=(0, 1))
    dynamics.fit(features, actions, next_features, torch.zeros(200, dtype=torch.bool), generator(2))
    assert not bool(dynamics.kinematics.columns.any())


def test_ensemble_identifies_linear_gaussian_system(fitted):
    points = torch.randn(200, 2, generator=generator(3)) * 0.7

    def mean(features, actions):
        return fitted.predict(features, actions)[0].mean(0)

    zeros, step = torch.zeros(200, 1), 0.2
    for column in range(2):
        moved = torch.zeros(2)
        moved[column] = step
        slope = (mean(points + moved, zeros) - mean(points - moved, zeros)).mean(0) / (2 * step)
        torch.testing.assert_close(slope, A[:, column], atol=0.05, rtol=0)
    slope = (mean(points, zeros + step) - mean(points, zeros - step)).mean(0) / (2 * step)
    torch.testing.assert_close(slope, B[:, 0], atol=0.05, rtol=0)
    std = fitted.predict(points, zeros)[1].mean((0, 1))
    torch.testing.assert_close(std, NOISE, rtol=0.1, atol=0)


def test_prediction_intervals_cover_unseen_data_as_stated(fitted):
    accuracy = measure_accuracy(fitted, [linear_gaussian(4000, 2)], 1)
    assert 0.85 <= accuracy.coverage_at(0.9) <= 0.95
    assert 0.45 <= accuracy.coverage_at(0.5) <= 0.55


def test_sampled_rollouts_have_system_covariance(fitted):
    start = torch.zeros(4000, 2)
    path = fitted.rollout(start, torch.zeros(4000, 2, 1), 1, sample=True, generator=generator(5))
    covariance = torch.diag(NOISE**2)
    twice = A @ covariance @ A.T + covariance
    torch.testing.assert_close(path[2, :, 0].T.cov(), twice, atol=0.02, rtol=0.1)


def test_fits_with_one_seed_are_identical():
    states = []
    for _ in range(2):
        random = generator(4)
        dynamics = DynamicsModel(2, 1, SMALL, random)
        dynamics.fit(*linear_gaussian(100, 1), torch.rand(100, generator=random) < 0.2, random)
        states.append(state_of(dynamics))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_dynamics_state_round_trip():
    random = generator()
    first, second = DynamicsModel(2, 1, SMALL, random), DynamicsModel(2, 1, SMALL, random)
    first.fit(*linear_gaussian(100, 1), torch.zeros(100, dtype=torch.bool), random)
    restore(second, state_of(first))
    features, actions, _ = linear_gaussian(10, 2)
    assert torch.equal(first.predict(features, actions)[0], second.predict(features, actions)[0])
    assert second.fitted


def test_ts_infinity_particles_follow_one_member_each():
    dynamics = DynamicsModel(2, 1, SMALL, generator())
    start, plans = torch.randn(2, 2, generator=generator(1)), torch.randn(2, 4, 1, generator=generator(2))
    path = dynamics.rollout(start, plans, 3, sample=False)
    for plan in range(2):
        for particle in range(3):
            state = start[plan : plan + 1]
            for step in range(4):
                mean, _ = dynamics.predict(state, plans[plan, step][None])
                state = mean[(plan * 3 + particle) % 3]
                torch.testing.assert_close(path[step + 1, plan, particle], state[0], atol=1e-5, rtol=1e-4)


def test_ts1_samples_members_and_ts_infinity_does_not():
    dynamics = DynamicsModel(2, 1, SMALL, generator())
    start, plans = torch.ones(1, 2), torch.ones(1, 1, 1)
    each = dynamics.predict(start, plans[0])[0][:, 0]
    sampled = {
        int((each - dynamics.rollout(start, plans, 1, "ts1", False, generator(seed))[1, 0, 0]).abs().sum(1).argmin())
        for seed in range(20)
    }
    assert sampled == {0, 1, 2}
    torch.testing.assert_close(dynamics.rollout(start, plans, 1, sample=False)[1, 0, 0], each[0])


def test_rollout_gradient_matches_finite_differences():
    dynamics = DynamicsModel(2, 1, SMALL, generator())
    plan = torch.randn(1, 3, 1, generator=generator(1)).requires_grad_()
    start = torch.randn(1, 2, generator=generator(2))
    total = dynamics.rollout(start, plan, 1, sample=False)[-1].sum()
    (gradient,) = torch.autograd.grad(total, plan)
    for step in range(3):
        moved = torch.zeros(1, 3, 1)
        moved[0, step] = 1e-2
        with torch.no_grad():
            difference = dynamics.rollout(start, plan + moved, 1, sample=False)[-1].sum()
            difference = difference - dynamics.rollout(start, plan - moved, 1, sample=False)[-1].sum()
        assert abs(float(difference / 2e-2 - gradient[0, step])) < 1e-3


def test_circle_and_integer_columns_are_detected_and_enforced():
    random = generator()
    angle = torch.rand(300, generator=random) * 6
    count = torch.randint(3, (300,), generator=random).float()
    features = torch.stack([angle.cos(), angle.sin(), count, angle, torch.ones(300)], 1)
    assert find_circle_columns(features).tolist() == [True, False, False, False, False]
    assert find_integer_columns(features).tolist() == [False, False, True, False, True]
    dynamics = DynamicsModel(5, 1, SMALL, random)
    next_features = features.roll(1, 0)
    dynamics.fit(features, torch.zeros(300, 1), next_features, torch.zeros(300, dtype=torch.bool), random)
    path = dynamics.rollout(features[:20], torch.zeros(20, 4, 1), 3, sample=True, generator=random)[1:]
    torch.testing.assert_close(path[..., :2].square().sum(-1), torch.ones(path.shape[:-1]))
    assert torch.equal(path[..., 2], path[..., 2].round())


def test_fit_rejects_bad_data_and_keeps_weights():
    dynamics = DynamicsModel(2, 1, SMALL, generator())
    before = state_of(dynamics)
    features, actions, next_features = linear_gaussian(20, 1)
    next_features[3, 1] = math.nan
    with pytest.raises(GantryError, match="NaN"):
        dynamics.fit(features, actions, next_features, torch.zeros(20, dtype=torch.bool), generator())
    with pytest.raises(GantryError, match="no data"):
        dynamics.fit(*linear_gaussian(20, 1), torch.ones(20, dtype=torch.bool), generator())
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_of(dynamics).items())


def test_diverged_flags_nonfinite_and_distant_states(fitted):
    states = torch.tensor([[0.0, 0.0], [math.nan, 0.0], [0.0, math.inf], [1e6, 0.0]])
    assert fitted.diverged(states).tolist() == [False, True, True, True]


def test_validation_outlier_does_not_stop_fit():
    random = generator()
    features, actions, next_features = linear_gaussian(200, 1)
    validation = torch.zeros(200, dtype=torch.bool)
    validation[:20] = True
    next_features[0] += 1e3
    result = DynamicsModel(2, 1, EnsembleConfig(ensemble_size=2, hidden_sizes=(16,), gradient_steps=300), random).fit(
        features, actions, next_features, validation, random
    )
    assert result.gradient_steps == 300


def test_mixture_cdf_matches_torch_distributions():
    mean, std = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [0.5]])
    value = torch.tensor([1.3])
    normals = [torch.distributions.Normal(m, s) for m, s in zip(mean[:, 0], std[:, 0], strict=True)]
    expected = sum(normal.cdf(value) for normal in normals) / 2
    torch.testing.assert_close(mixture_cdf(mean, std, value), expected)


def test_interval_coverage_counts_central_intervals():
    shares = interval_coverage(torch.tensor([0.5, 0.26, 0.04, 0.99]))
    assert shares[LEVELS.index(0.5)] == 0.5
    assert shares[LEVELS.index(0.05)] == 0.25
    assert shares[LEVELS.index(0.95)] == 0.75


def test_multi_step_errors_match_naive_loop():
    dynamics = DynamicsModel(2, 1, SMALL, generator())
    features, actions, next_features = linear_gaussian(6, 1)
    next_features[:-1] = features[1:]
    accuracy = measure_accuracy(dynamics, [(features, actions, next_features)], 3)
    expected = []
    for start in range(4):
        states = features[start].expand(3, -1)
        errors = []
        for step in range(3):
            states = torch.stack(
                [dynamics.predict(states[m : m + 1], actions[start + step][None])[0][m, 0] for m in range(3)]
            )
            errors.append(float((states.mean(0) - next_features[start + step]).square().mean().sqrt()))
        expected.append(errors)
    torch.testing.assert_close(
        accuracy.multi_step_errors, torch.tensor(expected).median(0).values, atol=1e-5, rtol=1e-4
    )


def test_multi_step_errors_are_nan_beyond_longest_segment():
    accuracy = measure_accuracy(DynamicsModel(2, 1, SMALL, generator()), [linear_gaussian(3, 1)], 4)
    assert bool(accuracy.multi_step_errors.isnan().all())
    assert measure_accuracy(DynamicsModel(2, 1, SMALL, generator()), [], 4) is None


def test_dataset_keeps_order_when_it_grows():
    dataset = TransitionDataset(1, 1)
    for start in range(0, 3000, 700):
        number = torch.arange(start, start + 700).float()
        bools = torch.zeros(700, dtype=torch.bool)
        dataset.add(Transitions(number[:, None], number[:, None], number[:, None] + 1, number, bools, bools))
    assert len(dataset) == 3500
    assert np.array_equal(dataset.transitions.rewards.numpy(), np.arange(3500))
    other = TransitionDataset(1, 1)
    other.load_state(dataset.state())
    assert torch.equal(other.transitions.next_features, dataset.transitions.next_features)
    dataset.mark()
    dataset.add(dataset.transitions.select(slice(0, 1000)))
    dataset.rollback()
    assert len(dataset) == 3500
    assert torch.equal(other.transitions.next_features, dataset.transitions.next_features)


@pytest.mark.parametrize(
    "change",
    [
        {"ensemble_size": 0},
        {"learning_rate": 0.0},
        {"hidden_sizes": ()},
        {"gradient_steps": 0},
        {"weight_decay": -1.0},
        {"beta_nll": 2.0},
    ],
)
def test_ensemble_config_rejects_invalid_settings(change):
    with pytest.raises(GantryError):
        EnsembleConfig(**change)
