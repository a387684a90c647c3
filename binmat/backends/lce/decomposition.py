"""An operator of torch as simpler ones, by torch's own tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.func import functionalize
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from binmat.backends.lce.values import Bits, Value
from binmat.transforms.tracing_lock import TRACING_LOCK

aten = torch.ops.aten


def _addbmm(x: Tensor, first: Tensor, second: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    return x * beta + torch.bmm(first, second).sum(0) * alpha


def _distances(x: Tensor, y: Tensor, p: float, mode: int | None) -> Tensor:
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1)


def _trilinear(
    x: Tensor, y: Tensor, z: Tensor, in_x: list[int], in_y: list[int], in_z: list[int], over: list[int], unroll: int
) -> Tensor:
    for dims, axis in ((in_x, 0), (in_y, 1), (in_z, 2)):
        for dim in dims:
            x, y, z = (part.unsqueeze(dim) if i == axis else part for i, part in enumerate((x, y, z)))
    return (x * y * z).sum(over)


#: Operators that torch's tables leave out.
_OWN: dict[object, Callable[..., Tensor]] = {
    aten.addbmm.default: _addbmm,
    aten._cdist_forward.default: _distances,
    aten._trilinear.default: _trilinear,
}


def decompose(target: Any, arguments: Sequence[Any], operands: Sequence[Value | Bits]) -> GraphModule | None:
    """The graph of what an operator computes from `operands`, its inputs in that order; None where torch has none.

    arguments: every argument of the operator's schema, the operands among them. The operator itself is not in the
    graph.
    """
    function = _OWN.get(target) or decomposition_table.get(target)
    if function is None:
        return None
    leaves, structure = pytree.tree_flatten(list(arguments))
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Value | Bits)]

    def call(*tensors: Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        values = pytree.tree_unflatten(filled, structure)
        named = {
            argument.name: value
            for argument, value in zip(target._schema.arguments, values, strict=True)
            if argument.kwarg_only
        }
        result = function(*values[: len(values) - len(named)], **named)
        # Named tuples cannot stand in a graph.
        return tuple(result) if isinstance(result, tuple) else result

    samples = [torch.empty(operand.shape, dtype=getattr(operand, "dtype", torch.float32)) for operand in operands]
    record = make_fx(functionalize(call), tracing_mode="fake", _allow_non_fake_inputs=True)
    with TRACING_LOCK, torch.no_grad():
        graph: GraphModule = record(*samples)
    return None if any(node.target == target for node in graph.graph.nodes) else graph
