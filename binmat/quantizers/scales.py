"""Scales of binarized weights: the float factor that makes alpha * sign(w) resemble w.

alpha = mean abs w minimises ||w - alpha sign(w)|| (XNOR-Net, Rastegari et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class ScaleKind:
    """One kind of scale.

    measure: weights [O, ...] to alpha [O], differentiable; None where there is no scale.
    learnable: alpha is a parameter [O] of the layer that starts at what ``measure`` gives.
    stored_per_channel: a deployed network stores one number per output channel.
    """

    measure: Callable[[Tensor], Tensor] | None = None
    learnable: bool = False
    stored_per_channel: bool = False


def channel_scale(weight: Tensor) -> Tensor:
    """mean abs w per output channel: [O, ...] to [O]. Differentiable: d alpha / dw = sign(w) / n."""
    return weight.abs().flatten(1).mean(1)


def layer_scale(weight: Tensor) -> Tensor:
    """mean abs w over the layer, once per output channel: [O, ...] to [O]. Differentiable."""
    return weight.abs().mean().expand(weight.shape[0])


SCALES: dict[str, ScaleKind] = {
    "none": ScaleKind(),
    "channel": ScaleKind(channel_scale, stored_per_channel=True),
    "layer": ScaleKind(layer_scale),
    "learnable": ScaleKind(channel_scale, learnable=True, stored_per_channel=True),
}


class _StraightProduct(torch.autograd.Function):
    """alpha * B; the gradient passes to B as it is, and none to alpha.

    The estimator behind B then stands for the derivative of alpha * sign(w) as a whole, as in the code of ReActNet,
    BiMatting and DoReFa.
    """

    @staticmethod
    def forward(ctx: Any, binary: Tensor, scale: Tensor) -> Tensor:
        return binary * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


#: alpha * B, of B [O, ...] and an alpha that broadcasts to it, by how the gradient goes through it.
GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"straight": _StraightProduct.apply, "product": torch.mul}
