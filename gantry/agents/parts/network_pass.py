"""A pass through a network and back without a graph, for losses that say their own derivative."""

import torch

from gantry.agents.parts.networks import MLP


class Pass:
    """One evaluation of a network, and the way back through it by the chain rule, without a graph.

    For losses that say their derivative with respect to the outputs: a graph takes some 80 µs more, and with it DDPG
    learns a fifth slower (docs/measurements/ddpg.md).

    Attributes:
        outputs: (B, sizes[-1]) of the inputs (B, sizes[0]).
    """

    def __init__(self, network: MLP, inputs: torch.Tensor) -> None:
        self._network, self._inputs, self._workspace = network, inputs, network.take_workspace(len(inputs))
        self.outputs = network.forward(inputs, self._workspace)

    def gradient(self, output_gradient: torch.Tensor) -> torch.Tensor:
        """Return ∂loss/∂vector (P,) from ∂loss/∂outputs (B, sizes[-1]), and end the pass; the next pass reuses it."""
        _, gradient = self._network.backward(self._inputs, self._workspace, output_gradient, False, True)
        self._network.return_workspace(self._workspace)
        assert gradient is not None
        return gradient

    def input_gradient(self, output_gradient: torch.Tensor) -> torch.Tensor:
        """Return ∂loss/∂inputs (B, sizes[0]) from ∂loss/∂outputs (B, sizes[-1]), and end the pass."""
        gradient, _ = self._network.backward(self._inputs, self._workspace, output_gradient, True, False)
        self._network.return_workspace(self._workspace)
        assert gradient is not None
        return gradient
