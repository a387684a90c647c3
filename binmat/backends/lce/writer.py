"""Writes a lowered graph as a Larq Compute Engine model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from binmat.backends.lce import rules  # noqa: F401  (registers every rule)
from binmat.backends.lce.emitter import Emitter
from binmat.backends.lce.layout import preferred_order, stored_shape
from binmat.backends.lce.metadata import new_metadata, with_checksum
from binmat.backends.lce.model import LceModel
from binmat.backends.lce.values import DTYPES, Bits, StoredValue, Value
from binmat.errors import ExportError
from binmat.transforms.lowering.lowered_graph import LoweredGraph
from binmat.transforms.lowering.source_line import users_line


def write_model(lowered: LoweredGraph, *, portable: bool = False) -> LceModel:
    """Write a lowered graph as a .tflite model that Larq Compute Engine runs.

    4-D inputs and outputs are NHWC in the file. portable: use only what LCE's reference kernel computes too.
    Raises ExportError where an operator has no exact counterpart, naming node, layer and operator.
    """
    e = Emitter(portable)
    results: dict[Node, Any] = {}
    inputs: list[tuple[str, int]] = []
    outputs: list[tuple[str, int]] = []
    names = lowered.inputs
    nodes = lowered.module.graph.nodes
    count = sum(node.op == "placeholder" for node in nodes)
    if count != len(names):
        raise ExportError(f"the graph has {count} inputs and {len(names)} names were given")
    for node in nodes:
        e.node = node
        try:
            if node.op == "placeholder":
                results[node] = _input(e, names[len(inputs)])
                inputs.append((names[len(inputs)], results[node].tensor))
            elif node.op == "get_attr":
                results[node] = _attribute(lowered.module, str(node.target))
            elif node.op == "call_function":
                if node.users:
                    results[node] = e.compute(node, results)
            elif node.op == "output":
                outputs = _outputs(e, node, results, lowered.outputs)
            else:
                raise ExportError(f"{node.op} nodes do not belong into a lowered graph: lower the network first")
        except ExportError as error:
            raise ExportError(f"{_where(node)}: {error}") from error
    content = with_checksum(
        e.builder.build(inputs, outputs, "binmat", new_metadata(lowered.inputs, lowered.outputs))
    )
    stored = _stored_values(e, results)
    form = "portable form" if portable else ""
    return LceModel(content, form, stored, [t for _, t in inputs], e.builder, frozenset(e.without_negative_zero))


def _where(node: Node) -> str:
    layer = node.meta.get("layer")
    place = f"node '{node.name}' of layer '{layer}'" if layer else f"node '{node.name}'"
    line = users_line(node)
    details = ([str(node.target)] if node.op == "call_function" else []) + ([f"at {line}"] if line else [])
    return f"{place} ({', '.join(details)})" if details else place


def _input(e: Emitter, name: str) -> Value:
    value = e.node.meta["val"]
    if value.dtype not in DTYPES:
        raise ExportError(f"input '{name}' is {value.dtype}: the file takes float32")
    shape, order = tuple(value.shape), preferred_order(value.dim())
    return Value(e.builder.tensor(name, stored_shape(shape, order), DTYPES[value.dtype]), shape, order, value.dtype)


def _attribute(lowered: GraphModule, target: str) -> torch.Tensor:
    owner: Any = lowered
    for part in target.split("."):
        owner = getattr(owner, part)
    if not isinstance(owner, torch.Tensor):
        raise ExportError(f"attribute '{target}' is {type(owner).__name__}, not a tensor")
    return owner.detach()


def _outputs(e: Emitter, node: Node, results: dict[Node, Any], names: Sequence[str]) -> list[tuple[str, int]]:
    """The output tensors, each with a tensor and a name of its own."""
    leaves = pytree.tree_leaves(node.args[0])
    if len(leaves) != len(names):
        raise ExportError(f"the graph has {len(leaves)} outputs and {len(names)} names were given")
    named: list[tuple[str, int]] = []
    for name, leaf in zip(names, leaves, strict=True):
        if not isinstance(leaf, Node):
            raise ExportError(f"output '{name}' is {leaf!r}, not a tensor")
        value = e.preferred(results[leaf])
        # Inputs and constants have no producer.
        if value.tensor in {tensor for _, tensor in named} or e.builder.producer(value.tensor) is None:
            value = e.copy(value)
        e.builder.tensors[value.tensor].name = name
        named.append((name, value.tensor))
    return named


def _stored_values(e: Emitter, results: dict[Node, Any]) -> dict[str, StoredValue]:
    """Where each node's value lies at the end; fusing has moved some into their readers."""
    stored = {}
    for node, result in results.items():
        if node in e.absorbed or node.op not in ("placeholder", "call_function"):
            continue
        if isinstance(result, Value):
            dtype = node.meta["val"].dtype
            stored[node.name] = StoredValue(result.tensor, result.shape, result.order, dtype=dtype)
        elif isinstance(result, Bits) and result.packed is not None:
            stored[node.name] = StoredValue(result.packed, result.shape, preferred_order(len(result.shape)), "packed")
        elif isinstance(result, Bits) and result.signs is not None:
            stored[node.name] = StoredValue(result.signs.tensor, result.shape, result.signs.order, "signs")
    return stored
