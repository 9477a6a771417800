"""An ONNX graph that grows node by node."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gantry.errors import GantryError
from gantry.files import NO_CHECKSUM, checksum
from gantry.types import Array

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""Version of ONNX's operators."""
IR_VERSION = 8
"""Version of the file's layout, the oldest one with these operators, so that old runtimes read it."""
MEMORY, NEXT_MEMORY = "memory", "next_memory"
"""Names of what a policy with a memory carries from step to step: (B, size) float32, zeros where an episode begins."""
Tensors = Mapping[str, tuple["np.dtype[np.generic]", tuple[int, ...]]]
"""Name → number type and shape without the batch axis."""
NEEDED = "pip install 'gantry-rl[export]'"


UNSEALED = b'"%s"' % NO_CHECKSUM
"""What stands in a file in place of its checksum, a JSON value of the metadata."""


def sealed(content: bytes) -> bytes:
    """Return a file's content with its checksum in place of the last `UNSEALED`."""
    before, _, after = content.rpartition(UNSEALED)
    return before + b'"%s"' % checksum(content).encode() + after


def seal_fits(content: bytes, seal: object) -> bool:
    """Return whether a file's content is as it was when it was sealed; `seal` is the checksum in its metadata."""
    before, found, after = content.rpartition(f'"{seal}"'.encode(errors="replace"))
    return bool(found) and seal == checksum(before + UNSEALED + after)


class Graph:
    """Nodes of ONNX's own operators, each with one output, and constants.

    Raises:
        GantryError: the onnx package is not installed.
    """

    def __init__(self) -> None:
        try:
            from onnx import helper, numpy_helper
        except ImportError as error:
            raise GantryError(f"ONNX files need the onnx package: {NEEDED}") from error
        self._helper, self._numpy_helper = helper, numpy_helper
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Array) -> str:
        """Add a constant; returns its unique name."""
        unique = f"{name}_{len(self._constants)}"
        self._constants.append(self._numpy_helper.from_array(np.ascontiguousarray(value), unique))
        return unique

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: float | list[int]) -> str:
        """Add a node; returns the name of its output."""
        output = output or f"{operator.lower()}_{len(self._nodes)}"
        self._nodes.append(self._helper.make_node(operator, list(inputs), [output], output, **attributes))
        return output

    def number_type(self, kind: "np.dtype[np.generic]") -> int:
        """Return ONNX's number for a number type."""
        number: int = self._helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        return number

    def split(self, tensor: str, sizes: list[int]) -> list[str]:
        """Add nodes that split a tensor (B, sum of sizes) by columns; returns the parts' names."""
        axis, ends = self.constant("axis", np.array([1])), np.cumsum(sizes)

        def columns(start: int, end: int) -> str:
            edges = self.constant("from", np.array([start])), self.constant("to", np.array([end]))
            return self.add("Slice", tensor, *edges, axis)

        return [columns(end - size, end) for end, size in zip(ends, sizes, strict=True)]

    def model(
        self,
        inputs: Tensors,
        outputs: Tensors,
        metadata: dict[str, str],
    ) -> bytes:
        """Return the graph as an ONNX file's content.

        Args:
            inputs, outputs: a free batch axis is added in front of their shapes.
            metadata: the file's properties.
        """
        helper = self._helper

        def described(tensors: Tensors) -> "list[onnx.ValueInfoProto]":
            return [
                helper.make_tensor_value_info(name, self.number_type(kind), ["batch", *shape])
                for name, (kind, shape) in tensors.items()
            ]

        graph = helper.make_graph(self._nodes, "policy", described(inputs), described(outputs), self._constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, producer_name="gantry", opset_imports=opsets, ir_version=IR_VERSION)
        helper.set_model_props(model, metadata)
        content: bytes = model.SerializeToString(deterministic=True)
        return content
