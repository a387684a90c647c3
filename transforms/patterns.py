"""What a binary layer stands in, found on the graph: its batch norm, its activation, its input."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from torch import fx, nn

from binmat.nn import BinaryConv2d, BinaryLinear
from binmat.nn.operators import OPERATORS, Kind, NonNegative, Operator, operator_of


@dataclass(frozen=True)
class BinaryBlock:
    """A binary layer and what follows it directly: its norm and activation, each used by nothing else before.

    tail: the last node of layer and norm. activation: the activation function behind the tail, or behind the additions
    that the tail goes into (a shortcut's); None where no known one follows. Where two blocks are added up, both have
    the activation behind the sum.
    """

    layer: fx.Node
    module: BinaryConv2d | BinaryLinear
    tail: fx.Node
    activation: fx.Node | None


def binary_blocks(graph: fx.Graph, network: nn.Module) -> list[BinaryBlock]:
    """The binary layers that the graph calls, in order. Those inside a leaf (a recurrence) are not in the graph."""
    blocks = []
    for node in graph.nodes:
        module = called_module(node, network)
        if isinstance(module, (BinaryConv2d, BinaryLinear)):
            tail, activation = row_of(node, network)
            if activation is None:
                activation = _behind_additions(tail, network)
            blocks.append(BinaryBlock(node, module, tail, activation))
    return blocks


def row_of(layer: fx.Node, network: nn.Module) -> tuple[fx.Node, fx.Node | None]:
    """The last node of layer and norm, and the activation behind it: each follows directly and reads nothing else."""
    tail, after = layer, _next(layer)
    norm = None if after is None else operator_at(after, network)
    if after is not None and norm is not None and norm.kind is Kind.NORM:
        tail, after = after, _next(after)
    return tail, after if after is not None and _is_replaceable(after, network) else None


def _behind_additions(tail: fx.Node, network: nn.Module) -> fx.Node | None:
    """The activation function behind one or more additions of two tensors, each read by nothing else."""
    after = only_user(tail)
    added = False
    while after is not None and operator_at(after, network) is OPERATORS["add"] and len(after.all_input_nodes) == 2:
        after, added = only_user(after), True
    return after if added and after is not None and _is_replaceable(after, network) else None


def activations_before(layer: fx.Node, network: nn.Module) -> list[fx.Node]:
    """The activation functions that a scheme may replace and without which the layer's input could be negative.

    They reach it through each other and through operators whose result is not negative where their operands are not.
    """
    found: dict[fx.Node, None] = {}
    seen: set[fx.Node] = set()
    waiting = list(layer.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        operator = operator_at(node, network, exact=True)
        replaceable = _is_replaceable(node, network)
        if replaceable:
            found[node] = None
        passes = operator is not None and operator.non_negative in (NonNegative.AS_INPUT, NonNegative.AS_OPERANDS)
        if replaceable or passes:
            waiting += node.all_input_nodes
    return list(found)


def operator_at(node: fx.Node, network: nn.Module, *, exact: bool = False) -> Operator | None:
    """The operator that a node calls, as :func:`binmat.nn.operators.operator_of` finds it; None where it calls none."""
    if node.op == "call_module":
        return operator_of(type(called_module(node, network)), exact=exact)
    return operator_of(node.target, exact=exact) if node.op in ("call_function", "call_method") else None


def called_module(node: fx.Node, network: nn.Module) -> nn.Module | None:
    """The module that a node calls, or None."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def activation_module(node: fx.Node, network: nn.Module) -> nn.Module:
    """A module for an activation that is called as a function or method, with its arguments.

    A PReLU's weight is the network's own parameter. It has two names until
    :func:`binmat.transforms.swap.remove_unread` takes the old one.
    """
    operator = operator_of(node.target)
    assert operator is not None
    slope = _slope_of(node, network)
    if slope is not None:
        module = nn.PReLU(slope.numel(), device="meta")
        module.weight = slope
        return module
    options = {key: value for key, value in node.kwargs.items() if key != "inplace"}
    return operator.modules[0](*node.args[1:], **options)


def parameters_read(node: fx.Node) -> set[str]:
    """The names of the network's own parameters and buffers among the node's operands."""
    return {str(source.target) for source in node.all_input_nodes if source.op == "get_attr"}


def _is_replaceable(node: fx.Node, network: nn.Module) -> bool:
    """Whether a scheme may replace what the node calls; not a PReLU whose weight is computed."""
    operator = operator_at(node, network, exact=True)
    if operator is None or not operator.replaceable:
        return False
    return operator is not OPERATORS["prelu"] or node.op == "call_module" or _slope_of(node, network) is not None


def _slope_of(node: fx.Node, network: nn.Module) -> nn.Parameter | None:
    """The parameter that a PReLU called as a function or method takes as its weight; None for other nodes."""
    if operator_of(node.target) is not OPERATORS["prelu"]:
        return None
    weight = node.args[1] if len(node.args) > 1 else node.kwargs["weight"]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return None
    found = attrgetter(str(weight.target))(network)
    return found if isinstance(found, nn.Parameter) else None


def _next(node: fx.Node) -> fx.Node | None:
    """The one node that reads this one, as its first operand."""
    after = only_user(node)
    return after if after is not None and after.args and after.args[0] is node else None


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads this one; None where there are several or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None
