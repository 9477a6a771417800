import contextlib
import math

import numpy as np
import pytest
import torch

from gantry.errors import GantryError
from gantry.minimization.test_functions import LANDSCAPES, NOISE, landscape, parse_expression, rastrigin, rosenbrock

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


@pytest.mark.parametrize("name", LANDSCAPES)
def test_minima_are_where_they_are_said_to_be(name):
    ground = LANDSCAPES[name]
    problem = LANDSCAPES[name].problem()
    for place in MINIMA[name]:
        (where,) = points(place)
        assert float(ground.function(where)) == pytest.approx(ground.minimum, abs=1e-9)
        np.testing.assert_allclose(problem.gradient(where), 0, atol=1e-3)
        assert float(torch.linalg.eigvalsh(problem.hessian(where))[0]) > 0
    rng = np.random.default_rng(0)
    anywhere = torch.tensor(rng.uniform(ground.low, ground.high, (20_000, 2)))
    assert float(ground.function(anywhere).min()) >= ground.minimum
    assert all(low < start < high for low, start, high in zip(ground.low, ground.start, ground.high, strict=True))


def test_the_valley_has_condition_a_hundred_and_the_saddle_a_saddle():
    eigenvalues = torch.linalg.eigvalsh(LANDSCAPES["valley"].problem().hessian(points((0.3, 0.1))[0]))
    assert float(eigenvalues[1] / eigenvalues[0]) == pytest.approx(100)
    hessian = LANDSCAPES["saddle"].problem().hessian(points((0, 0))[0])
    np.testing.assert_allclose(hessian, [[1, 0], [0, -1]])


def test_the_classics_have_any_dimension():
    assert rastrigin(torch.zeros(3, 5)).tolist() == [0, 0, 0]
    assert rosenbrock(torch.ones(4, 7)).tolist() == [0] * 4


def test_noise_is_as_large_as_said_and_decided_by_the_seed():
    population = points((1, -0.5)).repeat(20_000, 1)
    noisy = landscape("noisy")
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
def test_expressions_mean_what_python_makes_of_them(text):
    population = torch.tensor(np.random.default_rng(0).uniform(-2, 2, (50, 2)))
    values = parse_expression(text)(population)
    names = {name: getattr(math, name) for name in ("sin", "cos", "exp", "log", "sqrt", "pi", "e")}
    code = compile(text.strip(), "expression", "eval")
    expected = [eval(code, {"__builtins__": {"abs": abs}}, {**names, "x": x, "y": y}) for x, y in population.tolist()]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_expressions_have_derivatives():
    problem = landscape("x**3*y + sin(y)").problem()
    at = points((1.5, -0.7))[0]
    np.testing.assert_allclose(problem.gradient(at), [3 * 1.5**2 * -0.7, 1.5**3 + math.cos(-0.7)])
    np.testing.assert_allclose(problem.hessian(at), [[6 * 1.5 * -0.7, 3 * 1.5**2], [3 * 1.5**2, math.sin(0.7)]])


REFUSED = {
    "x.real": "no arithmetic",
    "().__class__": "no arithmetic",
    "__import__('os')": "cannot call '__import__'",
    "open('file')": "cannot call 'open'",
    "sin.__call__(x)": "cannot call",
    "[x for x in (1, 2)]": "no arithmetic",
    "(lambda: x)()": "cannot call",
    "x if y else 1": "no arithmetic",
    "x < y": "no arithmetic",
    "x and y": "no arithmetic",
    "x[0]": "no arithmetic",
    "'x'": "no arithmetic",
    "True + x": "no arithmetic",
    "1j*x": "no arithmetic",
    "x @ y": "operator that is no arithmetic",
    "x // 2": "operator that is no arithmetic",
    "1 << 99": "operator that is no arithmetic",
    "~x": "no arithmetic",
    "z + 1": "cannot use the name 'z'",
    "sin": "there is no landscape 'sin'",
    "sin(x, y)": "exactly one argument",
    "sin(x=1)": "exactly one argument",
    "sin(*x)": "no arithmetic",
    "x^2": "a power is written",
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
def test_what_is_no_arithmetic_is_refused_in_one_line(text):
    with pytest.raises(GantryError, match=REFUSED[text]) as error:
        landscape(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["(" * 240 + "x" + ")" * 240, "-" * 490 + "x", "sin(" * 100 + "x" + ")" * 100])
def test_deep_nesting_is_computed_or_refused_but_never_a_traceback(text):
    with contextlib.suppress(GantryError):
        assert bool(landscape(text).function(points((0.3, 0.4))).isfinite().all())


def test_a_long_sum_of_digits_is_refused_before_it_costs_anything():
    with pytest.raises(GantryError):
        parse_expression("x + " + "9" * 450)
