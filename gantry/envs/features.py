"""Features that are bit-equal whatever the number of environments, so that a task's author need not know how.

NumPy's cosine and sine take different paths through contiguous and strided arrays, and round differently on them; a
column of `state.qpos` is strided in a batch and contiguous in a batch of one. These functions see to it.
"""

import numpy as np
from numpy.typing import DTypeLike


def columns(*parts: np.ndarray) -> np.ndarray:
    """Return features (n, number) float32: the parts, (n,) or (n, k) each, side by side in a new array."""
    blocks = [part if part.ndim > 1 else part[:, None] for part in parts]
    return np.concatenate(blocks, axis=1, dtype=np.float32, casting="unsafe")


def cos_sin(angles: np.ndarray, dtype: DTypeLike = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines of angles (n,) or (n, k) in rad, computed in the precision of `dtype`."""
    contiguous = angles.astype(dtype)
    return np.cos(contiguous), np.sin(contiguous)


def earlier_than(seconds: float, time: np.ndarray) -> np.ndarray:
    """Return whether less than some seconds have passed of the times (n, 1) since episodes began, (n,) bool."""
    return time.reshape(-1) + 1e-6 < seconds  # physics steps add up to a little more or less
