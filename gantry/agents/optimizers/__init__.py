"""Optimizers for plain functions, policy parameters and action sequences; none of them knows a simulator.

The registry names each method's class as text, so that importing this package does not import PyTorch.

    problem = Problem(lambda points: (points**2).sum(-1))                     # gantry.agents.optimizers.problem
    result = minimize(problem, Newton(), torch.ones(2), generator=generator)  # gantry.agents.optimizers.minimize
"""

from typing import Any

from gantry.agents.parts.registry import registered_class

METHODS: dict[str, str] = {
    "gradient-descent": "gantry.agents.optimizers.gradient_descent:GradientDescent",
    "newton": "gantry.agents.optimizers.newton:Newton",
    "three-point": "gantry.agents.optimizers.three_point:ThreePoint",
    "cross-entropy": "gantry.agents.optimizers.cross_entropy:CrossEntropy",
    "nes": "gantry.agents.optimizers.nes:NaturalEvolutionStrategy",
    "icem": "gantry.agents.optimizers.icem:ImprovedCrossEntropy",
    "mppi": "gantry.agents.optimizers.mppi:PathIntegral",
    "random-shooting": "gantry.agents.optimizers.random_shooting:RandomShooting",
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
    return registered_class("optimizer", name, METHODS)
