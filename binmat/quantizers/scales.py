"""Scales of binarized weights: the float factor that makes alpha * sign(w) resemble w.

alpha = mean abs w minimises ||w - alpha sign(w)|| (XNOR-Net, Rastegari et al. 2016).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def centred(weight: Tensor) -> Tensor:
    """w minus its mean per output channel; [O, ...] to the same shape. Differentiable."""
    return weight - weight.flatten(1).mean(1).view(-1, *[1] * (weight.dim() - 1))


def channel_scale(weight: Tensor) -> Tensor:
    """mean abs w per output channel: [O, ...] to [O]. Differentiable: d alpha / dw = sign(w) / n."""
    return weight.abs().flatten(1).mean(1)


def layer_scale(weight: Tensor) -> Tensor:
    """mean abs w over the layer, once per output channel: [O, ...] to [O]. Differentiable."""
    return weight.abs().mean().expand(weight.shape[0])


def scaled(binary: Tensor, scale: Tensor) -> Tensor:
    """alpha * B by the product rule: gradients alpha * grad to B and the channel's sum of B * grad to alpha.

    binary: [O, ...]; scale: [O].
    """
    return binary * _per_output(scale, binary)


def scaled_straight(binary: Tensor, scale: Tensor) -> Tensor:
    """alpha * B, the gradient passed to B as it is and none to alpha.

    The estimator behind B then stands for the derivative of alpha * sign(w) as a whole, as in the code of ReActNet,
    BiMatting and DoReFa. binary: [O, ...]; scale: [O].
    """
    return _ScaledStraight.apply(binary, _per_output(scale, binary))


def _per_output(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (like.dim() - 1))


class _ScaledStraight(torch.autograd.Function):
    @staticmethod
    def forward(binary: Tensor, scale: Tensor) -> Tensor:
        return binary * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
