"""What a binary layer stands in, found on the graph: its batch norm, its activation, its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from binmat.nn import BinaryConv2d, BinaryLinear
from binmat.nn.ibnorm import IBNorm

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, IBNorm)

#: Functions -> the module that does the same; their further arguments have the same order.
_FUNCTION_MODULES: dict[Any, type[nn.Module]] = {
    torch.relu: nn.ReLU,
    F.relu: nn.ReLU,
    "relu": nn.ReLU,
    "relu_": nn.ReLU,
    F.relu6: nn.ReLU6,
    F.leaky_relu: nn.LeakyReLU,
    F.elu: nn.ELU,
    F.gelu: nn.GELU,
    F.silu: nn.SiLU,
    F.hardswish: nn.Hardswish,
}

#: Activation functions that a scheme may replace. Gates (sigmoid, tanh, softmax) are not activations in this sense.
ACTIVATIONS: frozenset[Any] = frozenset({*_FUNCTION_MODULES, *_FUNCTION_MODULES.values(), nn.PReLU, nn.SELU})


@dataclass(frozen=True)
class BinaryBlock:
    """A binary layer and what follows it directly: its norm and activation, each used by nothing else before.

    tail: the last node of layer and norm. activation: None where no known activation function follows.
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
            blocks.append(BinaryBlock(node, module, tail, activation))
    return blocks


def row_of(layer: fx.Node, network: nn.Module) -> tuple[fx.Node, fx.Node | None]:
    """The last node of layer and norm, and the activation behind it: each follows directly and reads nothing else."""
    tail = layer
    after = only_user(tail)
    if after is not None and isinstance(called_module(after, network), NORMS):
        tail = after
        after = only_user(tail)
    return tail, after if after is not None and activation_key(after, network) is not None else None


def called_module(node: fx.Node, network: nn.Module) -> nn.Module | None:
    """The module that a node calls, or None."""
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def activation_key(node: fx.Node, network: nn.Module) -> Any | None:
    """The node's entry in ACTIVATIONS, or None."""
    if node.op == "call_module":
        key: Any = type(called_module(node, network))
    elif node.op in ("call_function", "call_method"):
        key = node.target
    else:
        return None
    return key if key in ACTIVATIONS else None


def activation_module(node: fx.Node) -> nn.Module:
    """A module for a functional activation, with its arguments."""
    options = {key: value for key, value in node.kwargs.items() if key not in ("input", "inplace")}
    arguments = node.args[1:] if node.args else ()
    return _FUNCTION_MODULES[node.target](*arguments, **options)


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads this one; None where there are several or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None
