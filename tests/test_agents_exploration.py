import numpy as np
import pytest
import torch

from gantry.agents.parts.checkpoint import restore, state_of
from gantry.agents.parts.exploration import Noise, make_noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_gaussian_noise_is_independent_with_the_given_scale():
    noise, random = make_noise("gaussian", 2_000, 3), generator()
    first, second = noise.sample(0.3, random), noise.sample(0.3, random)
    assert first.shape == (2_000, 3)
    assert first.std().item() == pytest.approx(0.3, rel=0.05)
    assert first.mean().item() == pytest.approx(0.0, abs=0.02)
    assert (first * second).mean().item() == pytest.approx(0.0, abs=0.005)


def test_ornstein_uhlenbeck_stationary_std_and_correlation():
    theta, scale = 0.15, 0.2
    noise, random = Noise(5_000, 2, theta), generator()
    for _ in range(60):
        noise.sample(scale, random)
    earlier = noise.sample(scale, random)
    later = noise.sample(scale, random)
    stationary = scale / (2 * theta - theta**2) ** 0.5
    assert later.std().item() == pytest.approx(stationary, rel=0.04)
    assert ((earlier * later).mean() / (earlier * earlier).mean()).item() == pytest.approx(1 - theta, rel=0.03)


def test_ornstein_uhlenbeck_with_a_finer_time_step_is_the_same_process():
    """Ten steps of a tenth forget and spread as one step does, to first order in θ."""
    fine, random = Noise(20_000, 1, 0.05, 0.1), generator()
    for _ in range(10):
        spread = fine.sample(1.0, random)
    assert spread.std().item() == pytest.approx(1.0, rel=0.04)


def test_ornstein_uhlenbeck_starts_each_episode_at_zero():
    noise, random = Noise(3, 1, theta=0.0), generator()
    before = noise.sample(1.0, random)
    noise.begin_episodes(np.array([1]))
    after = noise.sample(0.0, random)
    assert after[1] == 0.0
    assert torch.equal(after[[0, 2]], before[[0, 2]])


@pytest.mark.parametrize("kind", ["gaussian", "ornstein-uhlenbeck"])
def test_restored_noise_is_the_same(kind):
    one, other = make_noise(kind, 4, 2), make_noise(kind, 4, 2)
    random = generator()
    for _ in range(3):
        one.sample(0.5, random)
    restore(other, state_of(one))
    random, same = generator(1), generator(1)
    for _ in range(3):
        assert torch.equal(one.sample(0.5, random), other.sample(0.5, same))
