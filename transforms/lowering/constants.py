"""Constants of a lowered graph: get_attr nodes, and the folding of what depends on nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from binmat.transforms.graph_pass import GraphPass


def is_constant(node: fx.Node) -> bool:
    return node.op == "get_attr"


def constant(lowered: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor of a get_attr node."""
    tensor = getattr(lowered, str(node.target))
    assert isinstance(tensor, Tensor)
    return tensor.detach()


def add_constant(lowered: fx.GraphModule, before: fx.Node, value: Tensor) -> fx.Node:
    """A get_attr node for a new constant, placed before the given node."""
    number = len(dict(lowered.named_buffers(recurse=False)))
    while hasattr(lowered, f"constant_{number}"):
        number += 1
    lowered.register_buffer(f"constant_{number}", value)
    with lowered.graph.inserting_before(before):
        node = lowered.graph.get_attr(f"constant_{number}")
    node.meta["val"] = value
    return node


class FoldConstants(GraphPass[fx.GraphModule]):
    """Replaces every node that depends on constants alone by its value."""

    def apply(self, lowered: fx.GraphModule) -> fx.GraphModule:
        for node in list(lowered.graph.nodes):
            if node.op != "call_function" or not all(is_constant(n) for n in node.all_input_nodes):
                continue
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: constant(lowered, n))
            with torch.no_grad():
                value = node.target(*args, **kwargs)
            if isinstance(value, Tensor):
                node.replace_all_uses_with(add_constant(lowered, node, value.detach().clone()))
        lowered.graph.eliminate_dead_code()
        remove_unused_constants(lowered)
        return lowered


def remove_unused_constants(lowered: fx.GraphModule) -> None:
    """Drop tensors that no node names any more, so that the graph's size is what it computes with."""
    used = {str(node.target) for node in lowered.graph.nodes if is_constant(node)}
    for name in [*lowered._parameters, *lowered._buffers]:
        if name not in used:
            delattr(lowered, name)
    lowered.recompile()
