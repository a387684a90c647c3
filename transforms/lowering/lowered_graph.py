"""The lowered graph: what every backend writes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx


@dataclass(frozen=True)
class LoweredGraph:
    """One frame of a network, flat and of fixed size, in evaluation mode.

    module: fx GraphModule over ATen operators, ``binmat::binarize`` and ``binmat::binary_conv2d``; every node has
        ``meta["val"]`` (its shape) and may have ``meta["layer"]`` (the layer it comes from). NCHW in and out, batch 1.
    inputs, outputs: names, in the order of the graph; a name in both is a state.

    >>> from binmat.transforms.lowering.lower import lower
    >>> from binmat.transforms.trace import trace
    >>> network = trace(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.ReLU()))
    >>> lowered = lower(network, network.example(4, 4))
    >>> [str(node.target) for node in lowered.module.graph.nodes if node.op == "call_function"]
    ['aten.convolution.default', 'aten.relu.default']
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(self.module(*tensors))
