"""The names and shapes that a file shows, against those of the lowered graph."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.utils import _pytree as pytree

from binmat.backends.backend import Port, Signature
from binmat.errors import VerificationError
from binmat.transforms.lowering.lowered_graph import LoweredGraph


def check_signature(lowered: LoweredGraph, signature: Signature) -> None:
    """Raise VerificationError where an input or output of a file is not that of the graph, by name, shape or type.

    Floats of a graph may have another precision in the file.
    """
    graph = lowered.module.graph
    inputs = [node.meta["val"] for node in graph.nodes if node.op == "placeholder"]
    outputs = [node.meta["val"] for node in pytree.tree_leaves(graph.output_node().args[0])]
    _compare("input", signature.inputs, lowered.inputs, inputs)
    _compare("output", signature.outputs, lowered.outputs, outputs)


def _compare(side: str, ports: Sequence[Port], names: Sequence[str], values: Sequence[Tensor]) -> None:
    if [port.name for port in ports] != list(names):
        raise VerificationError(
            f"the file's {side}s are called {', '.join(port.name for port in ports)}, not {', '.join(names)}"
        )
    for port, value in zip(ports, values, strict=True):
        if port.shape != tuple(value.shape) or (port.dtype != value.dtype and not value.is_floating_point()):
            raise VerificationError(
                f"the file's {side} '{port.name}' is {port.dtype} {list(port.shape)}, "
                f"not {value.dtype} {list(value.shape)}"
            )
