import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gantry.envs.rewards import tolerance


def definition(x: float, lower: float, upper: float, margin: float, value_at_margin: float, sigmoid: str) -> float:
    """dm_control's tolerance of one number, written out case by case."""
    if lower <= x <= upper:
        return 1.0
    if margin == 0.0:
        return 0.0
    d = (lower - x if x < lower else x - upper) / margin
    if sigmoid == "gaussian":
        scale = math.sqrt(-2.0 * math.log(value_at_margin))
        return math.exp(-0.5 * (d * scale) ** 2)
    scaled = d * math.sqrt(1.0 - value_at_margin)
    return 1.0 - scaled**2 if abs(scaled) < 1.0 else 0.0


@st.composite
def shapes(draw):
    """lower, upper, margin, value at the margin, sigmoid."""
    lower = draw(st.sampled_from([0.0, -1.5, 0.25, 7.0]))
    upper = lower + draw(st.sampled_from([0.0, 0.0, 0.1, 3.0]))
    sigmoid = draw(st.sampled_from(["gaussian", "quadratic"]))
    margin = draw(st.sampled_from([0.0, 0.05, 1.0, 5.0]))
    value = draw(st.sampled_from([0.1, 0.5, 0.99] if sigmoid == "gaussian" else [0.0, 0.1, 0.5]))
    return lower, upper, margin, value, sigmoid


@given(shapes(), st.lists(st.floats(-20.0, 20.0), min_size=1, max_size=20))
def test_tolerance_is_dm_controls_for_numpy_and_torch_alike(shape, numbers):
    lower, upper, _, _, _ = shape
    x = np.array([*numbers, lower, upper, (lower + upper) / 2, lower - 1e-3, upper + 1e-3])
    expected = [definition(number, *shape) for number in x]
    # A bound that is not a sum of few powers of two may round to either side by an ulp; nothing else may differ.
    away = (np.abs(x - lower) > 1e-12) & (np.abs(x - upper) > 1e-12) | (lower == upper)
    ours = tolerance(x, *shape)
    assert np.allclose(ours[away], np.array(expected)[away], rtol=1e-9, atol=1e-12)
    assert ((ours >= 0.0) & (ours <= 1.0)).all()
    theirs = tolerance(torch.from_numpy(x), *shape)
    assert np.allclose(theirs.numpy(), ours, rtol=1e-14, atol=0.0)
    assert np.allclose([tolerance(number, *shape) for number in x], ours, rtol=1e-14)  # NumPy's scalars


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_and_precision_are_the_arguments(dtype):
    x = np.linspace(-3.0, 3.0, 12, dtype=dtype).reshape(2, 3, 2)
    for settings in ({"margin": 2.0}, {"margin": 1.0, "value_at_margin": 0.0, "sigmoid": "quadratic"}):
        ours = tolerance(x, -0.5, 0.5, **settings)
        assert ours.shape == x.shape
        assert ours.dtype == dtype
        assert tolerance(torch.from_numpy(x), -0.5, 0.5, **settings).shape == x.shape


def test_the_cart_poles_thresholds_hold_in_single_precision():
    assert tolerance(np.array([1.0, 0.9951, 0.9949], np.float32), 0.995, 1.0).tolist() == [1.0, 1.0, 0.0]
    assert tolerance(np.array([-0.25, 0.25, 0.2501, -0.2501], np.float32), -0.25, 0.25).tolist() == [1, 1, 0, 0]


def test_gradients_flow_through_tolerance():
    x = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: tolerance(value, margin=2.0), x)
