"""An operator of torch as simpler ones, by torch's own tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch.func import functionalize
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from binmat.backends.lce.values import Bits, Value


def decompose(target: Any, arguments: Sequence[Any], operands: Sequence[Value | Bits]) -> GraphModule | None:
    """The graph of what an operator computes from `operands`, its inputs in that order; None where torch has none.

    arguments: every argument of the operator's schema, the operands among them. The operator itself is not in the
    graph.
    """
    function = decomposition_table.get(target)
    if function is None:
        return None
    leaves, structure = pytree.tree_flatten(list(arguments))
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Value | Bits)]

    def call(*tensors: torch.Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        values = pytree.tree_unflatten(filled, structure)
        named = {
            argument.name: value
            for argument, value in zip(target._schema.arguments, values, strict=True)
            if argument.kwarg_only
        }
        return function(*values[: len(values) - len(named)], **named)

    samples = [torch.empty(operand.shape, dtype=getattr(operand, "dtype", torch.float32)) for operand in operands]
    record = make_fx(functionalize(call), tracing_mode="fake", _allow_non_fake_inputs=True)
    with torch.no_grad():
        graph: GraphModule = record(*samples)
    return None if any(node.target == target for node in graph.graph.nodes) else graph
