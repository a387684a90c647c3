"""Writes a lowered graph as a Larq Compute Engine model."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from binmat.atomic_write import atomic_write
from binmat.errors import ExportError
from binmat.export.lce.binary import Pending
from binmat.export.lce.emitter import RULES, Emitter
from binmat.export.lce.layout import preferred_order
from binmat.export.lce.values import DTYPES, Bits, StoredValue, Value
from binmat.export.tflite.builder import ModelBuilder, Named

for _family in ("activations", "convolution", "elementwise", "pooling", "reductions", "resize", "shapes"):
    importlib.import_module(f"binmat.export.lce.{_family}")

METADATA = "binmat"


@dataclass(frozen=True)
class LceModel:
    """A written model.

    content: the file. values: for every node of the lowered graph that has a tensor of its own in the file, where it
    lies. Nodes without one were folded into constants or taken over by the operator that reads them. builder: its
    operators and tensors, from which parts of it can be built.
    """

    content: bytes
    input_names: list[str]
    output_names: list[str]
    portable: bool
    values: dict[str, StoredValue]
    builder: ModelBuilder = field(repr=False)


def export_lce(
    lowered: GraphModule,
    path: str | os.PathLike[str] | None,
    input_names: Sequence[str],
    output_names: Sequence[str],
    portable: bool = False,
    packed_outputs: bool = True,
) -> LceModel:
    """Write the lowered graph as a .tflite model that Larq Compute Engine runs.

    lowered: an ATen-level graph with static shapes, whose nodes carry `meta["val"]` and may carry `meta["layer"]`.
    path: the file, written whole or not at all; None writes none. input_names, output_names: one per placeholder and
    per output; a state has the same name in both. 4-D inputs and outputs are NHWC in the file.
    portable: use nothing that LCE's reference kernel does not compute. packed_outputs: let a binary convolution that
    only a binarization reads write bits.
    Raises ExportError where an operator has no exact counterpart, naming node, layer and operator.
    """
    e = Emitter(portable, packed_outputs)
    results: dict[Node, Any] = {}
    inputs: list[tuple[str, int]] = []
    outputs: list[Any] = []
    placeholders = [node for node in lowered.graph.nodes if node.op == "placeholder"]
    if len(placeholders) != len(input_names):
        raise ExportError(f"the graph has {len(placeholders)} inputs and {len(input_names)} names were given")
    for node in lowered.graph.nodes:
        e.node = node
        try:
            if node.op == "placeholder":
                results[node] = _input(e, input_names[len(inputs)])
                inputs.append((input_names[len(inputs)], results[node].tensor))
            elif node.op == "get_attr":
                results[node] = _attribute(lowered, str(node.target))
            elif node.op == "call_function":
                if node.users:
                    results[node] = _result(e, node, results)
                    if isinstance(results[node], Value):
                        e.owners.setdefault(results[node].tensor, []).append(node)
            elif node.op == "output":
                outputs = _outputs(e, node, results, output_names, {tensor for _, tensor in inputs})
            else:
                raise ExportError(f"{node.op} nodes do not belong into a lowered graph: lower the network first")
        except ExportError as error:
            raise ExportError(f"{_where(node)}: {error}") from error
    content = e.builder.build(inputs, outputs, "binmat", {METADATA: _metadata(inputs, outputs)})
    if path is not None:
        write_whole(Path(path), content)
    return LceModel(content, list(input_names), list(output_names), portable, _stored_values(e, results), e.builder)


def write_whole(path: Path, content: bytes) -> None:
    """Write the model so that nobody sees half a file. Raises ExportError."""
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror}") from error


def _where(node: Node) -> str:
    layer = node.meta.get("layer")
    place = f"node '{node.name}' of layer '{layer}'" if layer else f"node '{node.name}'"
    return f"{place} ({node.target})" if node.op == "call_function" else place


def _input(e: Emitter, name: str) -> Value:
    value = e.node.meta["val"]
    if value.dtype not in DTYPES:
        raise ExportError(f"input '{name}' is {value.dtype}: the file takes float32")
    order = preferred_order(value.dim())
    shape = tuple(value.shape)
    tensor = e.builder.tensor(name, [shape[dim] for dim in order], DTYPES[value.dtype])
    return Value(tensor, shape, order, value.dtype)


def _attribute(lowered: GraphModule, target: str) -> torch.Tensor:
    owner: Any = lowered
    for part in target.split("."):
        owner = getattr(owner, part)
    if not isinstance(owner, torch.Tensor):
        raise ExportError(f"attribute '{target}' is {type(owner).__name__}, not a tensor")
    return owner.detach()


#: Operators whose result depends on the shape of their operand alone.
_SHAPE_ONLY = {
    torch.ops.aten.zeros_like.default,
    torch.ops.aten.ones_like.default,
    torch.ops.aten.full_like.default,
    torch.ops.aten.new_zeros.default,
    torch.ops.aten.new_ones.default,
    torch.ops.aten.new_full.default,
}


def _result(e: Emitter, node: Node, results: dict[Node, Any]) -> Any:
    """What the node becomes: computed now if it is constant, else written by its rule."""
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: results[n])
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise ExportError("it draws random numbers: put the network in eval mode")
    kinds = Value | Bits | Pending | torch.Tensor
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, kinds)]
    if node.target in _SHAPE_ONLY:
        args = (torch.empty(node.args[0].meta["val"].shape, dtype=node.args[0].meta["val"].dtype), *args[1:])
        leaves = []
    if all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]
    if getattr(getattr(node.target, "_schema", None), "is_mutable", False):
        raise ExportError("it changes its operand in place: functionalize the graph when lowering")
    rule = RULES.get(node.target)
    if rule is None:
        raise ExportError("there is no exact counterpart in TFLite: keep this operator out of the exported part")
    return rule(e, *_arguments(node.target, args, kwargs))


def _arguments(target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """Every argument of the operator's schema in order."""
    if not hasattr(target, "_schema"):
        return list(args)
    names = target._schema.arguments
    return [
        args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value)
        for i, argument in enumerate(names)
    ]


def _outputs(
    e: Emitter, node: Node, results: dict[Node, Any], names: Sequence[str], inputs: set[int]
) -> list[tuple[str, int]]:
    """The output tensors, each with a tensor and a name of its own."""
    leaves = pytree.tree_leaves(node.args[0])
    if len(leaves) != len(names):
        raise ExportError(f"the graph has {len(leaves)} outputs and {len(names)} names were given")
    named: list[tuple[str, int]] = []
    taken = set(inputs)
    for name, leaf in zip(names, leaves, strict=True):
        if not isinstance(leaf, Node):
            raise ExportError(f"output '{name}' is {leaf!r}, not a tensor")
        value = e.preferred(results[leaf])
        if value.tensor in taken or e.builder.producer(value.tensor) is None:
            value = e.copy(value)
        taken.add(value.tensor)
        e.builder.tensors[value.tensor].name = name
        named.append((name, value.tensor))
    return named


def _metadata(inputs: Named, outputs: Named) -> bytes:
    sides = {"inputs": [name for name, _ in inputs], "outputs": [name for name, _ in outputs]}
    return json.dumps({"layout": "NHWC", **sides}).encode()


def _stored_values(e: Emitter, results: dict[Node, Any]) -> dict[str, StoredValue]:
    """Where each node's value lies at the end; fusing has moved some into their readers."""
    stored = {}
    for node, result in results.items():
        if node in e.absorbed or node.op not in ("placeholder", "call_function"):
            continue
        if isinstance(result, Value):
            stored[node.name] = StoredValue(result.tensor, result.shape, result.order)
        elif isinstance(result, Bits) and result.packed is not None:
            stored[node.name] = StoredValue(result.packed, result.shape, preferred_order(len(result.shape)), "packed")
        elif isinstance(result, Bits) and result.signs is not None:
            stored[node.name] = StoredValue(result.signs.tensor, result.shape, result.signs.order, "signs")
    return stored
