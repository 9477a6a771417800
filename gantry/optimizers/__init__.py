"""Optimizers for plain functions, policy parameters and action sequences; none of them knows a simulator.

The registry names each method's class as text, so that importing this package does not import PyTorch.

    problem = Problem(lambda points: (points**2).sum(-1))                     # gantry.optimizers.problem
    result = minimize(problem, Newton(), torch.ones(2), generator=generator)  # gantry.optimizers.minimize
"""

import pkgutil
from typing import Any

from gantry.errors import GantryError, nearest

METHODS: dict[str, str] = {
    "gradient-descent": "gantry.optimizers.gradient_descent:GradientDescent",
    "newton": "gantry.optimizers.newton:Newton",
    "three-point": "gantry.optimizers.three_point:ThreePoint",
    "cross-entropy": "gantry.optimizers.cross_entropy:CrossEntropy",
    "nes": "gantry.optimizers.nes:NaturalEvolutionStrategy",
    "icem": "gantry.optimizers.icem:ImprovedCrossEntropy",
    "mppi": "gantry.optimizers.mppi:PathIntegral",
    "random-shooting": "gantry.optimizers.random_shooting:RandomShooting",
}
"""Method name → "module:Class"; the class is a dataclass of the method's settings."""

DESCRIPTIONS: dict[str, str] = {
    "gradient-descent": "step down the gradient; fixed, backtracking or spectral step sizes",
    "newton": "gradient and Hessian; damped, with a trust region where that fails",
    "three-point": "derivative-free line searches: the best of three points on a line, then the next line",
    "cross-entropy": "sample a Gaussian, refit it to the elites",
    "nes": "natural evolution strategy (search gradient): a Gaussian follows its natural gradient",
    "icem": "improved cross-entropy for action sequences: colored noise, kept elites, shrinking populations",
    "mppi": "model-predictive path integral: an exponentially weighted mean of samples",
    "random-shooting": "independent samples, the best one wins",
}
"""Method name → one line for listings."""


def method_class(name: str) -> Any:
    """Return the class of the optimizer called `name`.

    Raises:
        GantryError: no optimizer has that name; the message suggests the nearest names.
    """
    location = METHODS.get(name.lower())
    if location is None:
        raise GantryError(f"no optimizer is called {name!r}{nearest(name, METHODS)}")
    return pkgutil.resolve_name(location)
