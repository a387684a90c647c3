"""Fold per-channel multiplications and additions of a lowered graph into the convolutions before them."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from binmat.transforms.graph_pass import GraphPass

from . import binary_operators  # noqa: F401  (registers the operators)
from .constants import add_constant, clean_up, constant, is_constant

aten = torch.ops.aten
#: Position of (scale, bias) among a convolution's arguments.
_SCALE_AND_BIAS: dict[Any, tuple[int, int]] = {
    aten.convolution.default: (1, 2),
    torch.ops.binmat.binary_conv2d.default: (2, 3),
}
_ARITHMETIC = (aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor)
_BATCH_NORMS: tuple[Any, ...] = (aten.native_batch_norm.default, aten._native_batch_norm_legit_no_training.default)


@dataclass(frozen=True)
class _Affine:
    """y = source * scale + shift, per channel: float64 [C], or [1] for one value."""

    source: fx.Node
    scale: Tensor
    shift: Tensor


class FoldAffine(GraphPass[fx.GraphModule]):
    """Batch norm in evaluation, scales and shifts become part of the convolution that feeds them.

    Applies to float convolutions (weights and bias) and binary ones (multiplier and bias) whose result nothing else
    uses; a batch norm without such a convolution becomes one multiplication and one addition. The convolution's
    ``meta["folded"]`` names the layers that it has swallowed or begun to. Constants are
    combined in float64 and stored in the graph's own dtype.
    """

    def apply(self, lowered: fx.GraphModule) -> fx.GraphModule:
        lowered.graph.eliminate_dead_code()
        for node in list(lowered.graph.nodes):
            if _is_batch_norm(node):
                affine = self._read_batch_norm(lowered, node)
            elif node.target in _ARITHMETIC and not node.kwargs:
                affine = self._read_arithmetic(lowered, node)
            else:
                affine = None
            if affine is None:
                continue
            if affine.source.target in _SCALE_AND_BIAS and len(affine.source.users) == 1:
                self._fold(lowered, affine)
                folded = affine.source.meta.get("folded", ())
                affine.source.meta["folded"] = (*folded, node.meta.get("layer"))
                _replace(lowered, node, affine.source)
            elif _is_batch_norm(node):
                _replace(lowered, node, self._spell_out(lowered, node, affine))
        return clean_up(lowered)

    @staticmethod
    def _read_batch_norm(lowered: fx.GraphModule, node: fx.Node) -> _Affine | None:
        call: Any = node.args[0]
        source, gamma, beta, mean, variance, *rest = call.args
        training, eps = (rest[0], rest[2]) if len(rest) == 3 else (False, rest[1])
        if training or mean is None:
            return None
        mean, variance = constant(lowered, mean), constant(lowered, variance)
        scale = torch.rsqrt(variance.double() + eps)
        if gamma is not None:
            scale = scale * constant(lowered, gamma).double()
        shift = -mean.double() * scale
        if beta is not None:
            shift = shift + constant(lowered, beta).double()
        return _Affine(source, scale, shift)

    @staticmethod
    def _read_arithmetic(lowered: fx.GraphModule, node: fx.Node) -> _Affine | None:
        left, right = node.args
        turned = not isinstance(left, fx.Node) or (isinstance(right, fx.Node) and is_constant(left))
        source, value = (right, left) if turned else (left, right)
        if not isinstance(source, fx.Node) or (turned and node.target is aten.div.Tensor):
            return None
        number = _channel_values(node, source, value, lowered)
        if number is None:
            return None
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        if node.target is aten.mul.Tensor:
            return _Affine(source, number, zero)
        if node.target is aten.div.Tensor:
            return _Affine(source, 1.0 / number, zero)
        if node.target is aten.add.Tensor:
            return _Affine(source, one, number)
        # c - x = (-1) x + c, and x - c = x + (-c).
        return _Affine(source, -one, number) if turned else _Affine(source, one, -number)

    @staticmethod
    def _fold(lowered: fx.GraphModule, affine: _Affine) -> None:
        conv = affine.source
        args: Any = conv.args
        at_scale, at_bias = _SCALE_AND_BIAS[conv.target]
        old = constant(lowered, args[at_scale])
        scale = affine.scale.view(-1, *[1] * (old.dim() - 1))
        conv.update_arg(at_scale, add_constant(lowered, conv, (old.double() * scale).to(old.dtype)))
        bias = torch.zeros(conv.meta["val"].shape[1], dtype=torch.float64)
        if args[at_bias] is not None:
            bias = constant(lowered, args[at_bias]).double()
        conv.update_arg(at_bias, add_constant(lowered, conv, (bias * affine.scale + affine.shift).to(old.dtype)))

    @staticmethod
    def _spell_out(lowered: fx.GraphModule, node: fx.Node, affine: _Affine) -> fx.Node:
        value = affine.source.meta["val"]
        shape = (-1, *[1] * (value.dim() - 2))
        with lowered.graph.inserting_before(node):
            scale = add_constant(lowered, node, affine.scale.to(value.dtype).view(shape))
            shift = add_constant(lowered, node, affine.shift.to(value.dtype).view(shape))
            scaled = lowered.graph.call_function(aten.mul.Tensor, (affine.source, scale))
            shifted = lowered.graph.call_function(aten.add.Tensor, (scaled, shift))
        for new in (scaled, shifted):
            new.meta.update(node.meta)
        return shifted


def _channel_values(node: fx.Node, source: fx.Node, value: object, lowered: fx.GraphModule) -> Tensor | None:
    """value as float64 [C] or [1] if it is one number or one per channel of source, else None."""
    if isinstance(value, (int, float)):
        return torch.tensor([float(value)], dtype=torch.float64)
    if not isinstance(value, fx.Node) or not is_constant(value):
        return None
    shape = source.meta["val"].shape
    if len(shape) < 2 or node.meta["val"].shape != shape:
        return None
    tensor = constant(lowered, value).double()
    per_channel = tensor.dim() in (len(shape) - 1, len(shape)) and tensor.numel() == shape[1]
    if tensor.numel() == 1 or (per_channel and tensor.shape[1 - len(shape)] == shape[1]):
        return tensor.reshape(-1)
    return None


def _is_batch_norm(node: fx.Node) -> bool:
    if node.target is not operator.getitem or node.args[1] != 0:
        return False
    call: Any = node.args[0]
    return call.target in _BATCH_NORMS


def _replace(lowered: fx.GraphModule, node: fx.Node, replacement: fx.Node) -> None:
    """Use the replacement instead; the dead node goes at once, or it would count as a user of its source."""
    node.replace_all_uses_with(replacement)
    call: Any = node.args[0]
    lowered.graph.erase_node(node)
    if isinstance(call, fx.Node) and call.target in _BATCH_NORMS:
        lowered.graph.erase_node(call)
