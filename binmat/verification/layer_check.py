"""Single layers without weights against what became of them in the lowered graph, on wide values.

A picture may never reach the bound of an activation. Then a lowering that leaves the bound out shows nothing on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from binmat.transforms.lowering.one_float_type import OneFloatType
from binmat.verification.node_check import Evaluator
from binmat.verification.signs import TINY
from binmat.verification.wide_values import dense_values


@dataclass(frozen=True)
class FurthestLayer:
    """apart: the largest difference of a layer; name: of that layer; compared: how many layers were."""

    apart: float
    name: str
    compared: int


def furthest_layer(network: nn.Module, program: fx.Graph, lowered: fx.GraphModule) -> FurthestLayer:
    """How far a layer lies from its part of the lowered graph, both in float64, relative to the range of its result.

    network: its layers, in float64 and in evaluation mode. program: the graph that was lowered. lowered: in float64.
    Compared are layers and functions that have no weights and read one tensor, and whose part of the lowered graph
    stands by itself: no step of it is folded into a convolution. Of equal ones one is compared.
    """
    parts: dict[str, list[fx.Node]] = {}
    for node in lowered.graph.nodes:
        if node.op == "call_function" and "layer" in node.meta:
            parts.setdefault(node.meta["layer"], []).append(node)
    skipped = {layer for node in lowered.graph.nodes for layer in node.meta.get("folded", ())}
    calls = Counter(_name(node) for node in program.nodes if node.op != "output")
    # A function's name in the graph may also be a layer's.
    skipped |= {str(n.target) for n in program.nodes if n.op == "call_module"} & {
        n.name for n in program.nodes if n.op != "call_module"
    }
    worst, where = 0.0, ""
    compared: set[tuple[Any, ...]] = set()
    for call in program.nodes:
        name = _name(call)
        pieces = _connected(parts.pop(name, []))
        # Calls that follow each other directly make one piece.
        if name in skipped or len(pieces) != calls[name] or not _stands_alone(network, call):
            continue
        for piece in pieces:
            read, result = _ends(piece)
            key = _kind(network, call, piece)
            if read is None or result is None or key in compared:
                continue
            apart = _apart(network, call, lowered, read, result)
            if apart is None:
                continue
            compared.add(key)
            if not apart <= worst:
                worst, where = apart, name
    return FurthestLayer(worst, where, len(compared))


def _name(call: fx.Node) -> str:
    """What the lowered graph calls the layer of a call."""
    return str(call.target) if call.op == "call_module" else call.name


def _connected(part: list[fx.Node]) -> list[list[fx.Node]]:
    """The pieces of a part between which no value goes, each in the order of the graph."""
    pieces: list[list[fx.Node]] = []
    for node in part:
        joined = [piece for piece in pieces if any(operand in piece for operand in node.all_input_nodes)]
        pieces = [piece for piece in pieces if piece not in joined]
        pieces.append([*(other for piece in joined for other in piece), node])
    return pieces


def _ends(part: list[fx.Node]) -> tuple[fx.Node | None, fx.Node | None]:
    """The one node that a part reads and the one that others read of it; None where there is not exactly one."""
    inside = set(part)
    read = {n: None for node in part for n in node.all_input_nodes if n not in inside and n.op != "get_attr"}
    results = [node for node in part if any(user not in inside for user in node.users)]
    first = next(iter(read)) if len(read) == 1 else None
    floats = first is not None and isinstance(first.meta["val"], Tensor) and first.meta["val"].is_floating_point()
    return first if floats else None, results[0] if len(results) == 1 else None


def _stands_alone(network: nn.Module, call: fx.Node) -> bool:
    if len(call.all_input_nodes) != 1 or call.all_input_nodes[0].op == "get_attr":
        return False
    if call.op in ("call_function", "call_method"):
        return True
    return call.op == "call_module" and not network.get_submodule(str(call.target)).state_dict()


def _kind(network: nn.Module, call: fx.Node, part: list[fx.Node]) -> tuple[Any, ...]:
    """What two calls have in common that compute the same; for operators that mix pixels also their shapes."""
    of = repr(network.get_submodule(str(call.target))) if call.op == "call_module" else str(call.target)
    constants = fx.node.map_arg((call.args, call.kwargs), lambda node: None)
    steps = tuple(
        (str(node.target), repr(fx.node.map_arg((node.args, node.kwargs), lambda n: None)))
        + (() if torch.Tag.pointwise in getattr(node.target, "tags", ()) else (_shapes(node),))
        for node in part
    )
    return of, repr(constants), steps


def _shapes(node: fx.Node) -> tuple[Any, ...]:
    return tuple(value.shape for value in pytree.tree_leaves(node.meta.get("val")) if isinstance(value, Tensor))


def _apart(
    network: nn.Module, call: fx.Node, lowered: fx.GraphModule, read: fx.Node, result: fx.Node
) -> float | None:
    """The difference; None where the layer cannot be called by itself."""
    x = dense_values(read).double()
    known: Mapping[fx.Node, Tensor] = {read: x}
    with torch.no_grad(), OneFloatType(torch.float64):
        function: Any = call.target
        if call.op != "call_function":
            name = str(call.target)
            function = network.get_submodule(name) if call.op == "call_module" else getattr(Tensor, name)
        args, kwargs = fx.node.map_arg((call.args, call.kwargs), lambda node: x.clone())
        try:
            wanted = function(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None  # A view before it was left out, so its input has another shape.
        got = Evaluator(lowered, known, exact=True).compute(result)
    if not isinstance(wanted, Tensor) or not isinstance(got, Tensor) or wanted.shape != got.shape:
        return None
    if wanted.numel() == 0:
        return None
    if torch.equal(got, wanted):
        return 0.0
    alike = (got == wanted) | (got.isnan() & wanted.isnan())
    difference = float(torch.where(alike, 0.0, (got.double() - wanted.double()).abs()).max())
    finite = wanted[wanted.isfinite()].double().abs()
    return difference / max(float(finite.max()) if finite.numel() else 0.0, TINY) if difference else 0.0
