"""Test functions of two coordinates for optimizers, and a safe parser of expressions in x and y."""

import ast
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gantry.errors import GantryError, nearest
from gantry.optimizers.problem import Bounds, Problem

NOISE = 0.05
"""Standard deviation of the noise in the values of `noisy`."""


@dataclasses.dataclass(frozen=True)
class TestFunction:
    """A function to minimize, with its domain and its known minimum."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    name: str
    description: str
    function: Callable[[Tensor], Tensor]
    """(…, d) → (…); d is 2, or for `rastrigin` and `rosenbrock` any."""
    start: tuple[float, float]
    """Initial point."""
    low: tuple[float, float]
    """Lower corner of the plotted domain."""
    high: tuple[float, float]
    """Upper corner of the plotted domain."""
    minimum: float | None = None
    """The minimum, if known."""
    noise: float = 0.0
    """Standard deviation of the Gaussian noise added to each value."""

    def problem(self, bounds: Bounds | None = None, seed: int = 0) -> Problem:
        """Return the function as a problem; derivatives are those without the noise."""
        function = self.function
        if self.noise == 0:
            return Problem(function, bounds=bounds)
        generator = torch.Generator().manual_seed(seed)

        def noisy(points: Tensor) -> Tensor:
            values = function(points)
            return values + self.noise * torch.randn(values.shape, generator=generator, dtype=values.dtype)

        def single(point: Tensor) -> Tensor:
            return function(point[None])[0]

        return Problem(noisy, gradient=torch.func.grad(single), hessian=torch.func.hessian(single), bounds=bounds)


def quadratic(points: Tensor) -> Tensor:
    """½ (3u² + 2uv + 2v²) with u = x − 1, v = y + ½: 0 at (1, −½), curvatures 1.4 and 3.6."""
    u, v = points[..., 0] - 1.0, points[..., 1] + 0.5
    return 0.5 * (3.0 * u**2 + 2.0 * u * v + 2.0 * v**2)


def valley(points: Tensor) -> Tensor:
    """½ ((x + y)² / 2 + 100 (x − y)² / 2): 0 at the origin, condition number 100."""
    x, y = points[..., 0], points[..., 1]
    return 0.25 * ((x + y) ** 2 + 100.0 * (x - y) ** 2)


def saddle(points: Tensor) -> Tensor:
    """x²/2 − y²/2 + y⁴/4: a saddle at the origin, −1/4 at (0, ±1)."""
    x, y = points[..., 0], points[..., 1]
    return 0.5 * x**2 - 0.5 * y**2 + 0.25 * y**4


def rosenbrock(points: Tensor) -> Tensor:
    """Σ 100 (x_{i+1} − x_i²)² + (1 − x_i)², the banana: 0 at (1, …, 1).

    Source: Rosenbrock, "An automatic method for finding the greatest or least value of a function", 1960.
    """
    here, there = points[..., :-1], points[..., 1:]
    return (100.0 * (there - here**2) ** 2 + (1.0 - here) ** 2).sum(-1)


def rastrigin(points: Tensor) -> Tensor:
    """Σ 10 + x_i² − 10 cos 2πx_i: 0 at the origin, and a local minimum near every other integer point."""
    return (10.0 + points**2 - 10.0 * torch.cos(2.0 * math.pi * points)).sum(-1)


def himmelblau(points: Tensor) -> Tensor:
    """(x² + y − 11)² + (x + y² − 7)²: 0 at four points, one of them (3, 2).

    Source: Himmelblau, *Applied Nonlinear Programming*, 1972.
    """
    x, y = points[..., 0], points[..., 1]
    return (x**2 + y - 11.0) ** 2 + (x + y**2 - 7.0) ** 2


TEST_FUNCTIONS: dict[str, TestFunction] = {
    function.name: function
    for function in (
        TestFunction("quadratic", "a bowl", quadratic, (-1.5, 1.5), (-2, -2), (2.5, 2), 0.0),
        TestFunction("valley", "a narrow valley, condition 100", valley, (1.8, 0.6), (-2, -2), (2, 2), 0.0),
        TestFunction("saddle", "a saddle between two minima", saddle, (1.5, 0.01), (-2, -1.8), (2, 1.8), -0.25),
        TestFunction("rosenbrock", "a curved, flat valley", rosenbrock, (-1.2, 1.0), (-2, -1), (2, 3), 0.0),
        TestFunction("rastrigin", "a hundred local minima", rastrigin, (3.3, -2.8), (-5.12, -5.12), (5.12, 5.12), 0.0),
        TestFunction("himmelblau", "four equal minima", himmelblau, (-0.5, -1.0), (-5, -5), (5, 5), 0.0),
        TestFunction("noisy", f"the bowl, values ± {NOISE}", quadratic, (-1.5, 1.5), (-2, -2), (2.5, 2), 0.0, NOISE),
    )
}
"""Name → test function."""


def find_function(text: str) -> TestFunction:
    """Return the test function of that name, or the one that an expression in x and y defines.

    Raises:
        GantryError: neither a known name nor an arithmetic expression.
    """
    text = text.strip()
    if text in TEST_FUNCTIONS:
        return TEST_FUNCTIONS[text]
    if text.isidentifier() and text not in ("x", "y"):
        raise GantryError(f"there is no test function {text!r}{nearest(text, TEST_FUNCTIONS)}")
    return TestFunction("expression", text, parse_expression(text), (-1.5, 1.0), (-3, -3), (3, 3))


FUNCTIONS: dict[str, tuple[Callable[[float], float], Callable[[Tensor], Tensor]]] = {
    "sin": (math.sin, torch.sin),
    "cos": (math.cos, torch.cos),
    "exp": (math.exp, torch.exp),
    "log": (math.log, torch.log),
    "sqrt": (math.sqrt, torch.sqrt),
    "abs": (abs, torch.abs),
}
"""Functions allowed in expressions: of a number, and of a tensor."""
CONSTANTS = {"pi": math.pi, "e": math.e}
MAX_LENGTH = 500
"""Largest number of characters in an expression."""
MAX_EXPONENT = 64.0
GRAMMAR = "write an arithmetic expression in x and y: + - * / **, sin cos exp log sqrt abs, pi, e"


def parse_expression(text: str) -> Callable[[Tensor], Tensor]:
    """Return the function (…, 2) → (…) of an expression in x and y, such as `sin(x) + (y - 1)**2`.

    The text is never executed: its syntax tree is walked, and everything but arithmetic is rejected.

    Raises:
        GantryError: not arithmetic, too long, or a constant subexpression has no finite value.
    """
    if len(text) > MAX_LENGTH:
        raise GantryError(f"an expression has at most {MAX_LENGTH} characters, not {len(text)}")
    if "^" in text:
        raise GantryError("write powers with **, not ^")
    try:
        tree = ast.parse(text.strip(), mode="eval")
        evaluate = _compile(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise GantryError(f"cannot read the expression {text!r}; {GRAMMAR}") from error
    if not callable(evaluate):
        raise GantryError(f"the expression {text!r} contains neither x nor y; {GRAMMAR}")
    return lambda points: evaluate(points[..., 0], points[..., 1])


_Compiled = float | Callable[[Tensor, Tensor], Tensor]
"""A constant, or a function of x and y."""


def _compile(node: ast.expr) -> _Compiled:
    """Return a subexpression as a constant or a function."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _constant(lambda: float(node.value), node)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return _name(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        inner, sign = _compile(node.operand), -1.0 if isinstance(node.op, ast.USub) else 1.0
        return (lambda x, y: sign * inner(x, y)) if callable(inner) else sign * inner
    if isinstance(node, ast.BinOp):
        return _binary(node)
    if isinstance(node, ast.Call):
        return _call(node)
    raise GantryError(f"{_show(node)!r} is not arithmetic; {GRAMMAR}")


def _name(name: str) -> _Compiled:
    if name == "x":
        return lambda x, y: x
    if name == "y":
        return lambda x, y: y
    if name not in CONSTANTS:
        raise GantryError(f"an expression cannot use the name {name!r}; {GRAMMAR}")
    return CONSTANTS[name]


def _call(node: ast.Call) -> _Compiled:
    if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
        raise GantryError(f"an expression cannot call {_show(node.func)!r}; {GRAMMAR}")
    if len(node.args) != 1 or node.keywords:
        raise GantryError(f"{node.func.id} takes exactly one argument")
    of_number, of_tensor = FUNCTIONS[node.func.id]
    inner = _compile(node.args[0])
    if callable(inner):
        return lambda x, y: of_tensor(inner(x, y))
    return _constant(lambda: of_number(inner), node)


def _binary(node: ast.BinOp) -> _Compiled:
    operation = _OPERATIONS.get(type(node.op))
    if operation is None:
        raise GantryError(f"{_show(node)!r} uses an operator that is not supported; {GRAMMAR}")
    left, right = _compile(node.left), _compile(node.right)
    if isinstance(node.op, ast.Pow) and not callable(right) and abs(right) > MAX_EXPONENT:
        raise GantryError(f"the exponent {right:g} is too large; at most {MAX_EXPONENT:g}")
    if not callable(left) and not callable(right):
        return _constant(lambda: operation(left, right), node)

    def combined(x: Tensor, y: Tensor) -> Tensor:
        one = left(x, y) if callable(left) else left
        other = right(x, y) if callable(right) else right
        return operation(one, other)

    return combined


_OPERATIONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: lambda a, b: a**b,
}


def _constant(compute: Callable[[], float], node: ast.expr) -> float:
    """Return the finite real value of a constant subexpression.

    Raises:
        GantryError: it has none.
    """
    try:
        value = compute()
    except (ArithmeticError, ValueError):
        value = math.nan
    if isinstance(value, complex) or not math.isfinite(value):
        raise GantryError(f"{_show(node)!r} has no finite value")
    return value


def _show(node: ast.expr) -> str:
    """Return a subexpression as text of at most 40 characters."""
    text = ast.unparse(node)
    return text if len(text) <= 40 else f"{text[:39]}…"
