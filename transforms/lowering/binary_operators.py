"""The operators that a lowered graph has beyond ATen's: bits out of floats, and the binary convolution.

Everything binary in a lowered graph is ``binarize`` or ``binary_conv2d``. ``binary_conv2d_bits`` is both in one, where
a backend asks for it (:class:`binmat.transforms.lowering.fuse_bit_outputs.FuseBitOutputs`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from binmat.quantizers.sign import sign

_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, SymInt pad_value"
_Function = Callable[..., Tensor]


def _operator(arguments: str, fake: _Function) -> Callable[[_Function], _Function]:
    """Registers ``torch.ops.binmat.<name of the function>`` with the arguments of this schema.

    fake: gives the shape and type of the result on fake tensors, in fewer steps than the function.
    """

    def register(function: _Function) -> _Function:
        name, schema = f"binmat::{function.__name__}", f"({arguments}) -> Tensor"
        torch.library.custom_op(name, function, mutates_args=(), schema=schema).register_fake(fake)
        return function

    return register


def _convolved(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """A fake result of the binary convolution."""
    *_, stride, padding, dilation, groups, _ = rest
    return F.conv2d(x, x.new_empty(weight.shape), None, stride, padding, dilation, groups)


@_operator("Tensor x, Tensor threshold", lambda x, threshold: torch.empty_like(x))
def binarize(x: Tensor, threshold: Tensor) -> Tensor:
    """sign(x - threshold) in x's dtype, by the rule of :func:`binmat.quantizers.sign.is_negative`: sign(0) = +1.

    x: [N, C, H, W]; threshold: [1] or [C].
    """
    shaped = threshold.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))
    return sign(x - shaped)


@_operator(f"Tensor x, Tensor weight, Tensor multiplier, Tensor bias, {_GEOMETRY}", _convolved)
def binary_conv2d(x: Tensor, weight: Tensor, multiplier: Tensor, bias: Tensor, *geometry: Any) -> Tensor:
    """(sum of x * weight) * multiplier + bias, the sum being an exact integer.

    x: [N, C, H, W] of +-1. weight: int8 [O, C/groups, kh, kw] of +-1. multiplier, bias: float [O].
    geometry: stride, padding, dilation, each [vertical, horizontal], then groups and pad_value. The padding is
    symmetric and filled with pad_value: 0, +1 or -1 (-1 is the zero of DoReFa's {0, 1} activations).
    """
    total = _sum(x, weight, *geometry)
    return total * multiplier.to(x.dtype).view(-1, 1, 1) + bias.to(x.dtype).view(-1, 1, 1)


@_operator(f"Tensor x, Tensor weight, Tensor thresholds, {_GEOMETRY}", _convolved)
def binary_conv2d_bits(x: Tensor, weight: Tensor, thresholds: Tensor, *geometry: Any) -> Tensor:
    """-1 where the popcount of a window is above the channel's threshold, else +1, in x's dtype.

    The popcount is the number of products x * weight that are -1: with d products in a window, sum = d - 2 popcount.
    thresholds: int32 [O]. pad_value must be +1 or -1, since a padded 0 would leave out products. The other arguments
    are those of :func:`binary_conv2d`.
    """
    popcount = (weight[0].numel() - _sum(x, weight, *geometry)) / 2
    return torch.where(popcount > thresholds.view(-1, 1, 1), -1.0, 1.0).to(x.dtype)


def _sum(x: Tensor, weight: Tensor, *geometry: Any) -> Tensor:
    stride, (vertical, horizontal), dilation, groups, pad_value = geometry
    padded = F.pad(x, (horizontal, horizontal, vertical, vertical), value=float(pad_value))
    return F.conv2d(padded, weight.to(x.dtype), None, stride, 0, dilation, groups)
