"""The two operators that the deployment graph has beyond ATen's: bits out of floats, and the binary convolution.

Everything binary in a lowered graph is one of these, so a backend needs one rule for each.
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
    vertical, horizontal = padding
    padded = F.pad(x, (horizontal, horizontal, vertical, vertical), value=float(pad_value))
    total = F.conv2d(padded, weight.to(x.dtype), None, stride, 0, dilation, groups)
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
    size = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    ]
    return x.new_empty((x.shape[0], weight.shape[0], *size))
