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


def power_of_two_scale(weight: Tensor) -> Tensor:
    """2^round(log2(mean abs w)) per output channel: [O, ...] to [O]; 0 for a channel of zeros. No gradient.

    Source: Qin et al., IR-Net, CVPR 2020, Sec. 3.2: a shift of bits in place of a multiplication.
    """
    return channel_scale(weight.detach()).log2().round().exp2()


def layer_scale(weight: Tensor) -> Tensor:
    """mean abs w over the layer, once per output channel: [O, ...] to [O]. Differentiable."""
    return weight.abs().mean().expand(weight.shape[0])


SCALES: dict[str, ScaleKind] = {
    "none": ScaleKind(),
    "channel": ScaleKind(channel_scale, stored_per_channel=True),
    "layer": ScaleKind(layer_scale),
    "power_of_two": ScaleKind(power_of_two_scale, stored_per_channel=True),
    "learnable": ScaleKind(channel_scale, learnable=True, stored_per_channel=True),
}


class _StraightProduct(torch.autograd.Function):
    """alpha * B; the gradient passes to B as it is, and none to alpha."""

    @staticmethod
    def forward(ctx: Any, binary: Tensor, scale: Tensor) -> Tensor:
        return binary * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _elementwise(binary: Tensor, scale: Tensor, source: Tensor) -> Tensor:
    return binary * scale.detach() + (source - source.detach()) / source[0].numel()


#: alpha * B of (B [O, ...], an alpha that broadcasts to it, the weight v that alpha was measured of), by how the
#: gradient G = dL/d(alpha B) goes through it:
#: ``straight``: G to B and none to alpha. The estimator then stands for the derivative of alpha * sign(w) as a whole,
#: as in the code of ReActNet, BiMatting and DoReFa.
#: ``product``: alpha G to B, sum(B G) to alpha.
#: ``constant``: alpha G to B and none to alpha, as in Bi-Real Net's paper and IR-Net's code.
#: ``elementwise``: alpha G to B, and G / n to v in place of the gradient through alpha, n being the number of weights
#: of an output channel, as in XNOR-Net's paper.
GRADIENTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "straight": lambda binary, scale, source: _StraightProduct.apply(binary, scale),
    "product": lambda binary, scale, source: binary * scale,
    "constant": lambda binary, scale, source: binary * scale.detach(),
    "elementwise": _elementwise,
}
