"""Methods that minimize: on plain functions, on policy parameters and on action sequences; they know no simulator.

The registry names each method's class as text, so that importing this package does not import PyTorch.

    problem = Problem(lambda points: (points**2).sum(-1))                     # gantry.agents.optimizers.problem
    result = minimize(problem, Newton(), torch.ones(2), generator=generator)  # gantry.agents.optimizers.minimize
"""

import importlib
from typing import Any

from gantry.errors import GantryError
from gantry.errors import nearest

METHODS: dict[str, str] = {
    "gradient-descent": "gantry.agents.optimizers.gradient_descent:GradientDescent",
    "newton": "gantry.agents.optimizers.newton:Newton",
    "three-point": "gantry.agents.optimizers.three_point:ThreePoint",
    "cross-entropy": "gantry.agents.optimizers.cross_entropy:CrossEntropy",
    "search-gradient": "gantry.agents.optimizers.nes:SearchGradient",
    "icem": "gantry.agents.optimizers.icem:ImprovedCrossEntropy",
    "mppi": "gantry.agents.optimizers.mppi:PathIntegral",
    "random-shooting": "gantry.agents.optimizers.random_shooting:RandomShooting",
}
"""Method name → "module:Class"; the class is a dataclass of the method's settings."""

DESCRIPTIONS: dict[str, str] = {
    "gradient-descent": "down the gradient; fixed, backtracking or spectral steps",
    "newton": "gradient and Hessian; damped, with a trust region where that fails",
    "three-point": "no derivatives: the best of three points on a line, then the next line",
    "cross-entropy": "sample a Gaussian, refit it to the elites",
    "search-gradient": "natural evolution strategy: a Gaussian follows its expected value's natural gradient",
    "icem": "cross-entropy for action sequences: coloured noise, kept elites, shrinking populations",
    "mppi": "model-predictive path integral: an exponentially weighted mean of samples",
    "random-shooting": "independent samples, the best one wins",
}
"""Method name → one line for listings."""


def method_class(name: str) -> Any:
    """Return the class of the method called `name`.

    Raises:
        GantryError: no method has that name; the message names the nearest ones.
    """
    if name not in METHODS:
        raise GantryError(f"no optimizer is called {name!r}{nearest(name, METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
