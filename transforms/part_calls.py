"""Which nodes of a graph hold what a call of a part takes and returns: noted when it is traced, kept by the passes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from .call_structure import Structure

_INPUTS, _OUTPUTS = "part_inputs", "part_outputs"
#: Stands for any tensor. It is made here because a call of torch is recorded while a graph is.
_TENSOR = torch.empty(0)


@dataclass(frozen=True)
class PartInput:
    """A tensor or a size that a call of a part takes. part, call: as PartOutput has them. index: of the argument."""

    part: str
    call: int
    index: int


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


def inputs_held(node: fx.Node) -> tuple[PartInput, ...]:
    """The arguments of parts that a node holds."""
    held: tuple[PartInput, ...] = node.meta.get(_INPUTS, ())
    return held


def outputs_held(node: fx.Node) -> tuple[PartOutput, ...]:
    """The results of parts that a node holds."""
    held: tuple[PartOutput, ...] = node.meta.get(_OUTPUTS, ())
    return held


def note_inputs(part: str, call: int, arguments: Any, node_of: Callable[[Any], fx.Node | None]) -> None:
    """Note on the nodes of its arguments that a call of a part takes them. node_of: None for what is no tensor."""
    for index, leaf in enumerate(pytree.tree_leaves(arguments)):
        node = node_of(leaf)
        if node is not None:
            node.meta[_INPUTS] = (*inputs_held(node), PartInput(part, call, index))


def note_outputs(part: str, call: int, result: Any, node_of: Callable[[Any], fx.Node | None]) -> None:
    """Note on the nodes of a result that a call of a part returns it. node_of: None for what is no tensor."""
    nodes = [node for leaf in pytree.tree_leaves(result) if (node := node_of(leaf)) is not None]
    structure = Structure(pytree.tree_map(lambda leaf: leaf if node_of(leaf) is None else _TENSOR, result))
    for index, node in enumerate(nodes):
        node.meta[_OUTPUTS] = (*outputs_held(node), PartOutput(part, call, index, structure))


def hand_over(old: fx.Node, new: fx.Node, besides: Collection[Any] = ()) -> None:
    """Let a node that takes another one's place hold what that one held. besides: parts whose results stay behind."""
    held = outputs_held(old)
    old.meta[_OUTPUTS] = tuple(output for output in held if output.part in besides)
    new.meta[_OUTPUTS] = (*outputs_held(new), *(output for output in held if output.part not in besides))
    # Whoever read the old node reads the new one.
    new.meta[_INPUTS] = (*inputs_held(new), *inputs_held(old))
    old.meta[_INPUTS] = ()


def rename_parts(node: fx.Node, name: Callable[[str], str]) -> None:
    """Rename the parts whose arguments and results a node holds."""
    node.meta[_INPUTS] = tuple(replace(held, part=name(held.part)) for held in inputs_held(node))
    node.meta[_OUTPUTS] = tuple(replace(held, part=name(held.part)) for held in outputs_held(node))


def inherit_inputs(node: fx.Node, placeholder: fx.Node, name: Callable[[str], str]) -> None:
    """Let a node that stands for the placeholder of a graph spliced in hold its arguments, of parts renamed so."""
    held = (replace(held, part=name(held.part)) for held in inputs_held(placeholder))
    node.meta[_INPUTS] = (*inputs_held(node), *held)
