"""Names for the loosely typed values that pass between environments, agents and workflows."""

from collections.abc import Mapping
from typing import Any

import gymnasium
from numpy.typing import NDArray

Array = NDArray[Any]
"""A NumPy array of whatever number type."""
Numeric = Any
"""A NumPy array, a NumPy number or a PyTorch tensor: what reward and termination functions take and return."""
Observation = Any
"""An observation or a batch of them: an array, a number, or a dictionary of these."""
Space = gymnasium.Space[Any]
"""Any Gymnasium space."""
Infos = dict[str, Any]
"""What Gymnasium's `reset` and `step` return beside the numbers."""
Options = Mapping[str, Any]
"""Settings by name."""
Json = dict[str, Any]
"""A JSON object."""
SUCCESS = ("success", "is_success")
"""Keys of `info` under which environments say whether an episode succeeded, the first one first."""
SearchSpace = dict[str, tuple[float, float, bool] | list[object]]
"""Setting → (lowest, highest, whether its logarithm is what matters), whole numbers where both are; or its choices."""
