"""`gantry optimize`: minimize a function of x and y, count what it takes beside SciPy, and draw how it went."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from gantry.cli.options import parse_options
from gantry.cli.output import console, parse, print_json
from gantry.errors import GantryError, nearest, shown
from gantry.optimizers import METHODS, method_class
from gantry.types import Json

if TYPE_CHECKING:
    from torch import Tensor

    from gantry.minimization.scipy_peers import Count
    from gantry.minimization.test_functions import TestFunction
    from gantry.optimizers.minimize import Method, Result

PICTURES = (".png", ".mp4", ".gif")


@dataclasses.dataclass(frozen=True)
class OptimizeArguments:
    """Minimize a function of x and y, count the evaluations beside SciPy's methods, and draw how it went.

    FUNCTION is a test function (quadratic, valley, saddle, rosenbrock, rastrigin, himmelblau, noisy) or an expression
    in x and y such as "sin(x) + (y - 1)**2 + abs(x*y)": + - * / **, sin cos exp log sqrt abs, pi and e.

    Methods: gradient-descent, newton (derivatives by torch.func); three-point (a direct search); cross-entropy,
    nes (natural evolution strategy); icem, mppi, random-shooting (planners' methods). `all` runs every one.

    An evaluation is one value, one gradient or one Hessian at one point. Examples:

      gantry optimize rosenbrock --method newton

      gantry optimize rastrigin --method cross-entropy --set population=100 elites=15 --out rastrigin.mp4

      gantry optimize "x**4 - 3*x**2 + x + y**2" --method all --start 2 1
    """

    function: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FUNCTION")]
    """Name of a test function, or an expression in x and y."""
    method: str = "newton"
    """The optimizer, or `all`."""
    start: tuple[float, float] | None = None
    """Where to begin, x and y; by default the test function's own."""
    set: tuple[str, ...] = ()
    """Settings of the method, name=value; docs/optimizers.md lists them."""
    bounds: tuple[float, float] | None = None
    """Lower and upper bound of both coordinates; by default none. With them SciPy is not compared."""
    tolerance: float = 1e-8
    """Distance from the minimum that counts as reached: from the exact one, else from the lowest value found."""
    budget: int = 20_000
    """Largest number of evaluations."""
    seed: int = 0
    """Seed of everything random."""
    scipy: bool = True
    """Compare with SciPy's methods of the same kind."""
    out: Path | None = None
    """Draw it: a picture (.png) or a film (.mp4, .gif) of level sets, iterates, populations and covariances."""
    json: bool = False
    """End with one line of JSON on standard output; everything else goes to standard error."""


def main(words: Sequence[str]) -> None:
    """Run `gantry optimize`."""
    arguments = parse(OptimizeArguments, "optimize", words)
    names = list(METHODS) if arguments.method == "all" else [arguments.method]
    if names[0] not in METHODS:
        raise GantryError(f"no optimizer is called {arguments.method!r}{nearest(arguments.method, [*METHODS, 'all'])}")
    if arguments.method == "all" and (arguments.set or arguments.out):
        raise GantryError("--set and --out need one method, not `all`")
    if arguments.out is not None and arguments.out.suffix.lower() not in PICTURES:
        raise GantryError(f"cannot draw {arguments.out}: its name must end in .png, .mp4 or .gif")
    if not (0 < arguments.tolerance < math.inf and arguments.budget > 0):
        raise GantryError("the tolerance and the budget must be positive")
    if not 0 <= arguments.seed < 2**32:
        raise GantryError(f"the seed must be from 0 to below 2^32, not {shown(arguments.seed)}")
    methods = {name: configured(name, arguments.set) for name in names}
    comparison = _compare(arguments, methods)
    screen = console(arguments.json)
    screen.print(_table(arguments, comparison))
    for name, count in comparison.ours.items():
        place = ", ".join(f"{number:.6g}" for number in count.point)
        screen.print(f"{name}: {count.message}; {count.value:.6g} at ({place})", soft_wrap=True)
    if arguments.out is not None:
        from gantry.minimization import film as optimization_film

        result = comparison.results[names[0]]
        optimization_film.draw_minimization(arguments.out, comparison.function, names[0], result, comparison.curves())
        screen.print(f"drawn: {arguments.out}", soft_wrap=True, markup=False)
    if arguments.json:
        print_json(comparison.to_json(arguments))


def configured(name: str, words: Sequence[str]) -> "Method":
    """Return the method of that name with settings from `name=value` words.

    Raises:
        GantryError: an unknown setting, or a value of the wrong kind.
    """
    from gantry.settings.fields import TOO_LARGE  # imports PyTorch

    kind = method_class(name)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    settings: Json = {}
    for key, value in parse_options(words).items():
        if key not in fields:
            raise GantryError(f"{name} has no setting {key!r}{nearest(key, fields)}")
        settings[key] = value
        expected = fields[key].default
        wanted = float if expected is None else type(expected)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = (number if wanted is float else type(value) is wanted) or (value is None and expected is None)
        if not fits or (number and not abs(value) < TOO_LARGE):
            most = f"below {TOO_LARGE:g}"
            kinds = {float: f"a number {most}", int: f"a whole number {most}", bool: "true or false", str: "a word"}
            raise GantryError(f"{name}'s setting {key} is {kinds[wanted]}, not {shown(json.dumps(value))}")
    method: Method = kind(**settings)
    return method


@dataclasses.dataclass
class Comparison:
    """What our methods and SciPy's took on one function."""

    function: "TestFunction"
    minimum: float
    """The minimum: the exact one, else the lowest value that any method found."""
    ours: dict[str, "Count"]
    theirs: dict[str, "Count"]
    results: dict[str, "Result"]
    tolerance: float

    def evaluations(self, count: "Count") -> int | None:
        """Return the evaluations a count took to come within the tolerance, or None."""
        near = (spent for spent, value in count.curve if value <= self.minimum + self.tolerance)
        return next(near, None)

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return name → (evaluations, best value above the minimum) of every method, up to its end."""
        counts = {**self.ours, **{f"SciPy {name}": count for name, count in self.theirs.items()}}
        return {
            name: [(spent, value - self.minimum) for spent, value in (*count.curve, (count.evaluations, count.value))]
            for name, count in counts.items()
        }

    def to_json(self, arguments: OptimizeArguments) -> Json:
        """Return it as JSON values."""
        counts = {**self.ours, **{f"SciPy {name}": count for name, count in self.theirs.items()}}
        rows = [
            {
                "method": name,
                "evaluations": self.evaluations(count),
                "spent": count.evaluations,
                "value": count.value,
                "point": count.point,
                "stop": count.message,
            }
            for name, count in counts.items()
        ]
        return {
            "function": arguments.function,
            "minimum": self.minimum,
            "tolerance": self.tolerance,
            "seed": arguments.seed,
            "methods": rows,
            "out": None if arguments.out is None else str(arguments.out),
        }


def _compare(arguments: OptimizeArguments, methods: "dict[str, Method]") -> Comparison:
    """Run ours and SciPy's from the same start."""
    import torch

    from gantry.minimization.scipy_peers import PEERS, count_ours, count_scipy
    from gantry.minimization.test_functions import find_function
    from gantry.optimizers.problem import Bounds

    function = find_function(arguments.function)
    bounds = None if arguments.bounds is None else Bounds.box(*arguments.bounds)
    start = torch.tensor(arguments.start or function.start, dtype=torch.float64)
    # The values of a noisy function say nothing about how near the minimum is.
    known = function.minimum is not None and function.noise == 0 and bounds is None
    target = function.minimum + arguments.tolerance if known and function.minimum is not None else None
    ours, results = {}, {}
    for name, method in methods.items():
        problem = function.problem(bounds, arguments.seed)
        ours[name], results[name] = count_ours(problem, method, start, target, arguments.seed, arguments.budget)
    theirs: dict[str, Count] = {}
    if arguments.scipy and bounds is None:
        box = bounds or Bounds(torch.tensor(function.low).double(), torch.tensor(function.high).double())
        for peer in dict.fromkeys(peer for name in methods for peer in PEERS[name]):
            problem = function.problem(bounds, arguments.seed)
            theirs[peer] = count_scipy(problem, peer, start, target, arguments.seed, arguments.budget, box)
    if function.noise > 0:
        # The lowest value seen was luck; what counts is the noise-free value where the search ended.
        ours = {name: _without_noise(function.function, count, results[name]) for name, count in ours.items()}
        theirs = {name: _without_noise(function.function, count, None) for name, count in theirs.items()}
    minimum = min(count.value for count in (*ours.values(), *theirs.values()) if not math.isnan(count.value))
    if function.minimum is not None and bounds is None:
        minimum = function.minimum
    return Comparison(function, minimum, ours, theirs, results, arguments.tolerance)


def _without_noise(function: "Callable[[Tensor], Tensor]", count: "Count", result: "Result | None") -> "Count":
    """Return the count with noise-free values: of our search's centers, or of the point that a peer thought best."""
    import torch

    if result is None:
        point = torch.tensor(count.point, dtype=torch.float64)
        return dataclasses.replace(count, value=float(function(point)), curve=())
    curve = tuple((iterate.evaluations.total, float(function(iterate.center))) for iterate in result.trace)
    return dataclasses.replace(count, value=curve[-1][1], point=tuple(result.state.center.tolist()), curve=curve)


def _table(arguments: OptimizeArguments, comparison: Comparison) -> Table:
    title = f"{arguments.function}: evaluations to within {arguments.tolerance:g} of {comparison.minimum:.6g}"
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for heading in ("evaluations", "total", "above the minimum"):
        table.add_column(heading, justify="right")
    ours = [(f"[bold]{name}[/]", count) for name, count in comparison.ours.items()]
    theirs = [(f"SciPy {name}", count) for name, count in comparison.theirs.items()]
    for name, count in (*ours, *theirs):
        needed = comparison.evaluations(count)
        excess = max(count.value - comparison.minimum, 0.0)
        spent = "–" if needed is None else f"{needed:,}"
        table.add_row(name, spent, f"{count.evaluations:,}", f"{excess:.1e}")
    return table
