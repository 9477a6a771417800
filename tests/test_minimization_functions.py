import contextlib
import math

import numpy as np
import pytest
import torch

from gantry.errors import GantryError
from gantry.minimization.test_functions import (
    NOISE,
    TEST_FUNCTIONS,
    find_function,
    parse_expression,
    rastrigin,
    rosenbrock,
)

MINIMA = {
    "quadratic": [(1, -0.5)],
    "valley": [(0, 0)],
    "saddle": [(0, 1), (0, -1)],
    "rosenbrock": [(1, 1)],
    "rastrigin": [(0, 0)],
    "himmelblau": [(3, 2), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)],
    "noisy": [(1, -0.5)],
}


def points(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", TEST_FUNCTIONS)
def test_functions_have_documented_minima(name):
    function = TEST_FUNCTIONS[name]
    problem = TEST_FUNCTIONS[name].problem()
    for place in MINIMA[name]:
        (where,) = points(place)
        assert float(function.function(where)) == pytest.approx(function.minimum, abs=1e-9)
        np.testing.assert_allclose(problem.gradient(where), 0, atol=1e-3)
        assert float(torch.linalg.eigvalsh(problem.hessian(where))[0]) > 0
    rng = np.random.default_rng(0)
    anywhere = torch.tensor(rng.uniform(function.low, function.high, (20_000, 2)))
    assert float(function.function(anywhere).min()) >= function.minimum
    assert all(low < start < high for low, start, high in zip(function.low, function.start, function.high, strict=True))


def test_valley_condition_number_and_saddle_hessian():
    eigenvalues = torch.linalg.eigvalsh(TEST_FUNCTIONS["valley"].problem().hessian(points((0.3, 0.1))[0]))
    assert float(eigenvalues[1] / eigenvalues[0]) == pytest.approx(100)
    hessian = TEST_FUNCTIONS["saddle"].problem().hessian(points((0, 0))[0])
    np.testing.assert_allclose(hessian, [[1, 0], [0, -1]])


def test_rastrigin_and_rosenbrock_in_any_dimension():
    assert rastrigin(torch.zeros(3, 5)).tolist() == [0, 0, 0]
    assert rosenbrock(torch.ones(4, 7)).tolist() == [0] * 4


def test_noise_has_documented_std_and_follows_seed():
    population = points((1, -0.5)).repeat(20_000, 1)
    noisy = find_function("noisy")
    values = noisy.problem(seed=1).values(population)
    assert float(values.std()) == pytest.approx(NOISE, rel=0.03)
    assert torch.equal(values, noisy.problem(seed=1).values(population))
    assert not torch.equal(values, noisy.problem(seed=2).values(population))


EXPRESSIONS = [
    "x + y",
    "-x*y/3 + +2",
    "(x - 1)**2 + 3*(y + x**2)**2",
    "sin(x)*cos(y) + exp(-x**2) + log(x**2 + 1) + sqrt(abs(y) + 1)",
    "pi*x - e**y + 2**x",
    "abs(x)**1.5 + 1e-3*y",
    "  x**2 - sqrt(2)*y ",
]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_expression_matches_python_eval(text):
    population = torch.tensor(np.random.default_rng(0).uniform(-2, 2, (50, 2)))
    values = parse_expression(text)(population)
    names = {name: getattr(math, name) for name in ("sin", "cos", "exp", "log", "sqrt", "pi", "e")}
    code = compile(text.strip(), "expression", "eval")
    expected = [eval(code, {"__builtins__": {"abs": abs}}, {**names, "x": x, "y": y}) for x, y in population.tolist()]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_expression_derivatives():
    problem = find_function("x**3*y + sin(y)").problem()
    at = points((1.5, -0.7))[0]
    np.testing.assert_allclose(problem.gradient(at), [3 * 1.5**2 * -0.7, 1.5**3 + math.cos(-0.7)])
    np.testing.assert_allclose(problem.hessian(at), [[6 * 1.5 * -0.7, 3 * 1.5**2], [3 * 1.5**2, math.sin(0.7)]])


REFUSED = {
    "x.real": "not arithmetic",
    "().__class__": "not arithmetic",
    "__import__('os')": "cannot call '__import__'",
    "open('file')": "cannot call 'open'",
    "sin.__call__(x)": "cannot call",
    "[x for x in (1, 2)]": "not arithmetic",
    "(lambda: x)()": "cannot call",
    "x if y else 1": "not arithmetic",
    "x < y": "not arithmetic",
    "x and y": "not arithmetic",
    "x[0]": "not arithmetic",
    "'x'": "not arithmetic",
    "True + x": "not arithmetic",
    "1j*x": "not arithmetic",
    "x @ y": "operator that is not supported",
    "x // 2": "operator that is not supported",
    "1 << 99": "operator that is not supported",
    "~x": "not arithmetic",
    "z + 1": "cannot use the name 'z'",
    "sin": "there is no test function 'sin'",
    "sin(x, y)": "exactly one argument",
    "sin(x=1)": "exactly one argument",
    "sin(*x)": "not arithmetic",
    "x^2": "write powers with",
    "x**999": "exponent 999 is too large",
    "x**-65": "exponent -65 is too large",
    "x**(9**9)": "too large",
    "x + 9**9**9": "too large",
    "x + 99999**64**64": "no finite value|too large",
    "x + 1e999": "no finite value",
    "x + 10.0**60**2": "no finite value|too large",
    "x + 1/0": "no finite value",
    "x + log(0)": "no finite value",
    "x + sqrt(-1)": "no finite value",
    "x + (-8)**0.5": "no finite value",
    "x + exp(1000)": "no finite value",
    "3 + 4": "neither x nor y",
    "x +": "cannot read",
    "": "cannot read",
    "x; y": "cannot read",
    "x = 3": "cannot read",
    "x" + " + x" * 500: "at most 500",
    "roenbrock": "did you mean rosenbrock",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_expression_refuses_non_arithmetic_in_one_line(text):
    with pytest.raises(GantryError, match=REFUSED[text]) as error:
        find_function(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["(" * 240 + "x" + ")" * 240, "-" * 490 + "x", "sin(" * 100 + "x" + ")" * 100])
def test_expression_deep_nesting_gives_value_or_gantry_error(text):
    with contextlib.suppress(GantryError):
        assert bool(find_function(text).function(points((0.3, 0.4))).isfinite().all())


def test_expression_refuses_huge_integer():
    with pytest.raises(GantryError):
        parse_expression("x + " + "9" * 450)
