"""Constants of a lowered graph: its get_attr nodes and the tensors that they name."""

from __future__ import annotations

from torch import Tensor, fx


def is_constant(node: fx.Node) -> bool:
    return node.op == "get_attr"


def constant(lowered: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor of a get_attr node."""
    tensor = getattr(lowered, str(node.target))
    assert isinstance(tensor, Tensor)
    return tensor.detach()


def add_constant(lowered: fx.GraphModule, before: fx.Node, value: Tensor) -> fx.Node:
    """A get_attr node for a new constant, placed before the given node."""
    number = len(lowered._buffers)
    while hasattr(lowered, f"constant_{number}"):
        number += 1
    lowered.register_buffer(f"constant_{number}", value)
    with lowered.graph.inserting_before(before):
        node = lowered.graph.get_attr(f"constant_{number}")
    node.meta["val"] = value
    return node


def clean_up(lowered: fx.GraphModule) -> fx.GraphModule:
    """Drop the nodes that nothing reads and the tensors that no node names, recompile, and return the graph."""
    lowered.graph.eliminate_dead_code()
    used = {str(node.target) for node in lowered.graph.nodes if is_constant(node)}
    for name in [*lowered._parameters, *lowered._buffers]:
        if name not in used:
            delattr(lowered, name)
    lowered.recompile()
    return lowered
