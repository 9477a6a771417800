"""What an exported policy's file holds, for `gantry inspect`."""

import collections
from pathlib import Path

from gantry.export.onnx_policy import OnnxPolicy
from gantry.runs.inspect import Sections
from gantry.types import Json

LISTED = ("observation", "action", "observation_space", "action_space")
"""Metadata that `gantry inspect` tells in words of its own."""


def inspect_onnx(path: Path) -> Sections:
    """Return what an exported policy says of itself, what goes in and comes out, and what it is made of.

    Raises:
        GantryError: it is damaged, or `gantry export` did not write it, or a package is missing.
    """
    policy = OnnxPolicy(path)  # which refuses what is harmful
    import onnx

    graph = onnx.load_model(path, load_external_data=False).graph
    about: Json = {name: value for name, value in policy.metadata.items() if name not in LISTED and value is not None}
    about["checksum"] = "fits" if "checksum" in policy.metadata else "none"
    versions = about.get("versions")
    if isinstance(versions, dict):
        about["versions"] = " ".join(f"{name} {version}" for name, version in versions.items())
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    operators = collections.Counter(node.op_type for node in graph.node)
    return {
        "policy": about,
        "inputs and outputs": {
            "observation": f"{policy.observation_space}",
            "action": f"{policy.action_space}",
            "memory": f"{policy.memory_size} numbers" if policy.memory_size else "none",
        },
        "weights": {name: " × ".join(map(str, shape)) or "one number" for name, shape in weights.items()},
        "operators": dict(sorted(operators.items())),
    }
