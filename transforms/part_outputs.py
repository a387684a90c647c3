"""Which nodes of a graph hold what a part of the network returns: noted when it is traced, kept by the passes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from .call_structure import Structure

_KEY = "part_outputs"


@dataclass(frozen=True)
class PartOutput:
    """A tensor that a call of a part returns, alone or nested.

    part: the module's name. call: which of its calls in the graph, from 0. index: of the tensor in what the call
    returns, whose structure this is.
    """

    part: str
    call: int
    index: int
    structure: Structure


def outputs_held(node: fx.Node) -> tuple[PartOutput, ...]:
    """The results of parts that a node holds."""
    held: tuple[PartOutput, ...] = node.meta.get(_KEY, ())
    return held


def note_outputs(part: str, call: int, result: Any, node_of: Callable[[Any], fx.Node | None]) -> None:
    """Note on the nodes of a result that a call of a part returns it. node_of: None for what is no tensor."""
    nodes = [node for leaf in pytree.tree_leaves(result) if (node := node_of(leaf)) is not None]
    empty = torch.empty(0)
    structure = Structure(pytree.tree_map(lambda leaf: leaf if node_of(leaf) is None else empty, result))
    for index, node in enumerate(nodes):
        _add(node, PartOutput(part, call, index, structure))


def move_outputs(old: fx.Node, new: fx.Node, besides: Collection[Any] = ()) -> None:
    """Let a node that takes another one's place hold what that one held. besides: parts whose results stay behind."""
    held = outputs_held(old)
    old.meta[_KEY] = tuple(output for output in held if output.part in besides)
    for output in held:
        if output.part not in besides:
            _add(new, output)


def put_inside(node: fx.Node, prefix: str) -> None:
    """Rename the parts whose results a node holds, where the traced module becomes a part itself."""
    node.meta[_KEY] = tuple(replace(output, part=f"{prefix}.{output.part}") for output in outputs_held(node))


def _add(node: fx.Node, output: PartOutput) -> None:
    node.meta[_KEY] = (*outputs_held(node), output)
