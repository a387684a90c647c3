"""Changes of a lowered graph, to make faults of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from binmat.transforms.lowering.constants import add_constant, constant

aten = torch.ops.aten
Change = Callable[[fx.GraphModule], None]


def find(lowered: fx.GraphModule, target: Any, index: int = 0) -> fx.Node:
    """The node of this operator that stands at this place among them. Raises IndexError without one."""
    return lowered.graph.find_nodes(op="call_function", target=target)[index]


def argument(target: Any, place: int, value: Any, index: int = 0) -> Change:
    """Another argument. value: the new one, or a function of the old one."""

    def change(lowered: fx.GraphModule) -> None:
        node = find(lowered, target, index)
        rest = target._schema.arguments[len(node.args) : place + 1]
        given = [*node.args, *(argument.default_value for argument in rest)]
        given[place] = value(given[place]) if callable(value) else value
        node.args = tuple(given)

    return change


def keyword(target: Any, **values: Any) -> Change:
    """Other arguments by name."""

    def change(lowered: fx.GraphModule) -> None:
        node = find(lowered, target)
        node.kwargs = {**node.kwargs, **values}

    return change


def operator(
    target: Any, other: Any, arguments: Callable[..., tuple[Any, ...]] = lambda *given: given, index: int = 0
) -> Change:
    """Another operator. arguments: its arguments, from those of the one that stands there."""

    def change(lowered: fx.GraphModule) -> None:
        node = find(lowered, target, index)
        node.args = arguments(*node.args)
        node.target = other

    return change


def swapped(target: Any, index: int = 0) -> Change:
    """The first two operands swapped."""
    return operator(target, target, lambda a, b, *rest: (b, a, *rest), index)


def left_out(target: Any, index: int = 0) -> Change:
    """The operand in the place of the result."""

    def change(lowered: fx.GraphModule) -> None:
        node = find(lowered, target, index)
        node.replace_all_uses_with(node.args[0])

    return change


def constant_of(target: Any, place: int, change_value: Callable[[Tensor], Tensor], index: int = 0) -> Change:
    """Another constant. change_value: gets a copy of the old one."""

    def change(lowered: fx.GraphModule) -> None:
        node = find(lowered, target, index)
        old = constant(lowered, node.args[place])
        node.update_arg(place, add_constant(lowered, node, change_value(old.clone()).to(old.dtype)))

    return change


def one_element(change_value: Callable[[Tensor, Tensor], Tensor], place: int = 1) -> Callable[[Tensor], Tensor]:
    """Changes a single element. change_value: gets it and the range of all of them."""

    def change(values: Tensor) -> Tensor:
        flat = values.reshape(-1)
        index = place % flat.numel()
        flat[index] = change_value(flat[index], values.abs().max())
        return flat.view(values.shape)

    return change


def moved(share: float) -> Callable[[Tensor], Tensor]:
    """Moves a single element by this share of the range."""
    return one_element(lambda value, span: value + share * span)


def outputs(*order: int) -> Change:
    """The outputs in another order; one may stand in the place of another."""

    def change(lowered: fx.GraphModule) -> None:
        node = lowered.graph.output_node()
        results: Any = node.args[0]
        node.args = (tuple(results[index] for index in order),)

    return change
