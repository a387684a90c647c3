"""Which binary layers see nothing of the picture: their input is never negative, so its signs are all +1."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from binmat.model_defs.network import Network
from binmat.nn import BinaryLayer
from binmat.nn.masked_path import MaskedPath

from .patterns import called_module
from .trace import graphs

#: What is never negative, whatever it is given.
_NEVER_NEGATIVE: frozenset[Any] = frozenset(
    {
        *(nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.Softplus),
        *(torch.relu, F.relu, "relu", "relu_", F.relu6, torch.sigmoid, F.sigmoid, "sigmoid", F.hardsigmoid),
        *(torch.softmax, F.softmax, "softmax", torch.exp, "exp", torch.abs, "abs", "square", torch.square),
    }
)

#: What is not negative where its first operand is not.
_KEEPS: frozenset[Any] = frozenset(
    {
        *(nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, nn.Upsample, nn.UpsamplingBilinear2d, nn.ZeroPad2d),
        *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.PixelShuffle, nn.PixelUnshuffle),
        *(F.dropout, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
        *(torch.flatten, torch.mean, torch.amax, torch.max_pool2d),
        *("contiguous", "flatten", "view", "reshape", "permute", "transpose", "mean", "expand", "squeeze", "unsqueeze"),
        *("chunk", "split", torch.chunk, torch.split, operator.getitem),
    }
)
_SUMS_AND_PRODUCTS = (operator.add, operator.mul, torch.add, torch.mul, "add", "add_", "mul", "mul_")
#: Those of several operands.
_SEVERAL: frozenset[Any] = frozenset({torch.cat, *_SUMS_AND_PRODUCTS})

#: Ways to enlarge that do not overshoot.
_INTERPOLATIONS = ("nearest", "nearest-exact", "bilinear", "area", "linear")


def constant_signs(network: Network, mode: str) -> tuple[str, ...]:
    """Binary layers of a converted network whose input signs are all +1 in a mode, in the network's order.

    A scheme that neither learns a threshold nor replaces the activation function (bnn, xnor, recu) takes the sign of
    what is never negative where such a layer stands behind a ReLU: the layer gives a constant, or at a zero-padded
    border one of a few, and no training moves its input to the other side. Found on the mode's graph; an operator that
    is not known counts as one that may give negative values.
    """
    blind: dict[str, bool] = {}
    positive: set[fx.Node] = set()
    for node in graphs(network)[mode].nodes:
        module = called_module(node, network)
        fed_positive = bool(node.args) and node.args[0] in positive
        if isinstance(module, BinaryLayer):
            _note(blind, str(node.target), module, fed_positive)
        elif isinstance(module, MaskedPath):
            _note_inside(blind, str(node.target), module, fed_positive)
        elif _is_positive(node, module, positive):
            positive.add(node)
    return tuple(name for name, _ in network.named_modules() if blind.get(name))


def _note(blind: dict[str, bool], name: str, layer: BinaryLayer, fed_positive: bool) -> None:
    at_zero = layer.threshold is None and layer.scheme.activation.midpoint == 0
    blind[name] = blind.get(name, True) and fed_positive and at_zero


def _note_inside(blind: dict[str, bool], name: str, path: MaskedPath, fed_positive: bool) -> None:
    """A masked path is one node of the graph: its layers follow each other."""
    for key, module in path.named_children():
        if isinstance(module, BinaryLayer):
            _note(blind, f"{name}.{key}", module, fed_positive)
        fed_positive = type(module) in _NEVER_NEGATIVE or (fed_positive and type(module) in _KEEPS)


def _is_positive(node: fx.Node, module: nn.Module | None, positive: set[fx.Node]) -> bool:
    kind: Any = node.target if module is None else type(module)
    if kind in _NEVER_NEGATIVE:
        return True
    if kind is F.interpolate and node.kwargs.get("mode", "nearest") not in _INTERPOLATIONS:
        return False
    if kind in _SEVERAL:
        operands = node.all_input_nodes
        return bool(operands) and all(operand in positive for operand in operands) and _numbers_positive(node)
    # Further operands are sizes and positions.
    first = node.args[0] if node.args else None
    return (kind in _KEEPS or kind in (F.interpolate, F.pad)) and first in positive and _numbers_positive(node)


def _numbers_positive(node: fx.Node) -> bool:
    """Whether plain numbers that are added or multiplied, or padded with, are not negative."""
    if node.target is F.pad:
        value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else 0)
        return value is None or (isinstance(value, (int, float)) and value >= 0)
    if node.target not in _SUMS_AND_PRODUCTS:
        return True
    return all(number >= 0 for number in node.args if isinstance(number, (int, float)))
