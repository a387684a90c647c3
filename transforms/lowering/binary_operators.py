"""The operators that a lowered graph has beyond ATen's: bits out of floats, and the binary convolution.

Everything binary in a lowered graph is ``binarize`` or ``binary_conv2d``. ``binary_conv2d_bits`` is both in one, where
a backend asks for it (:class:`binmat.transforms.lowering.fuse_bit_outputs.FuseBitOutputs`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from binmat.quantizers.sign import is_negative


@torch.library.custom_op("binmat::binarize", mutates_args=())
def binarize(x: Tensor, threshold: Tensor) -> Tensor:
    """sign(x - threshold) in x's dtype, by the rule of :func:`binmat.quantizers.sign.is_negative`: sign(0) = +1.

    x: [N, C, H, W]; threshold: [1] or [C].
    """
    shaped = threshold.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))
    return torch.where(is_negative(x - shaped), -1.0, 1.0).to(x.dtype)


@binarize.register_fake
def _(x: Tensor, threshold: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("binmat::binary_conv2d", mutates_args=())
def binary_conv2d(
    x: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pad_value: int,
) -> Tensor:
    """(sum of x * weight) * multiplier + bias, the sum being an exact integer.

    x: [N, C, H, W] of +-1. weight: int8 [O, C/groups, kh, kw] of +-1. multiplier, bias: float [O].
    stride, padding, dilation: [vertical, horizontal]; padding is symmetric and filled with pad_value:
    0, +1 or -1 (-1 is the zero of DoReFa's {0, 1} activations).
    """
    total = _sum(x, weight, stride, padding, dilation, groups, pad_value)
    return total * multiplier.to(x.dtype).view(-1, 1, 1) + bias.to(x.dtype).view(-1, 1, 1)


@binary_conv2d.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    multiplier: Tensor,
    bias: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pad_value: int,
) -> Tensor:
    return _empty(x, weight, stride, padding, dilation)


@torch.library.custom_op("binmat::binary_conv2d_bits", mutates_args=())
def binary_conv2d_bits(
    x: Tensor,
    weight: Tensor,
    thresholds: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pad_value: int,
) -> Tensor:
    """-1 where the popcount of a window is above the channel's threshold, else +1, in x's dtype.

    The popcount is how many products x * weight are -1: with d products in a window, sum = d - 2 popcount. thresholds:
    int32 [O]. pad_value: +1 or -1; a padded 0 would leave out products. The rest is as for :func:`binary_conv2d`.
    """
    total = _sum(x, weight, stride, padding, dilation, groups, pad_value)
    popcount = (weight[0].numel() - total) / 2
    return torch.where(popcount > thresholds.view(-1, 1, 1), -1.0, 1.0).to(x.dtype)


@binary_conv2d_bits.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    thresholds: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pad_value: int,
) -> Tensor:
    return _empty(x, weight, stride, padding, dilation)


def _sum(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pad_value: int,
) -> Tensor:
    vertical, horizontal = padding
    padded = F.pad(x, (horizontal, horizontal, vertical, vertical), value=float(pad_value))
    return F.conv2d(padded, weight.to(x.dtype), None, stride, 0, dilation, groups)


def _empty(x: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]) -> Tensor:
    size = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    return x.new_empty((x.shape[0], weight.shape[0], *size))
