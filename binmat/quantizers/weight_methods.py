"""Weight methods: what becomes of the latent weights before their signs are taken."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TAU_START = 0.85
TAU_END = 0.99
EPS = 1e-5
SMALLEST_VARIANCE = 1e-10


@dataclass(frozen=True)
class WeightMethod:
    """One weight method, in two differentiable steps that keep the shape [O, ...].

    source: w to v, the weight that the scale is measured of.
    signed: (v, the training's progress in [0, 1]) to the number whose sign is taken. The progress may change gradients
        but no sign: what is deployed does not know it.
    """

    source: Callable[[Tensor], Tensor]
    signed: Callable[[Tensor, float], Tensor] = lambda source, progress: source


def centred(weight: Tensor) -> Tensor:
    """w minus its mean per output channel; [O, ...] to the same shape. Differentiable."""
    return weight - _per_channel(weight.flatten(1).mean(1), weight)


def centred_inputs(weight: Tensor) -> Tensor:
    """w minus its mean over the input channels at each kernel position; [O, I, ...] to the same shape. Differentiable.

    A depthwise layer has one input channel, whose weights would all become 0: they stay as they are.
    Source: XNOR-Net's code (Rastegari et al., ECCV 2016), whose networks have no depthwise layers.
    """
    return weight if weight.shape[1] == 1 else weight - weight.mean(1, keepdim=True)


def standardised(weight: Tensor) -> Tensor:
    """The centred weight divided by its unbiased deviation, per output channel of w [O, ...]. Differentiable.

    Deviations are at least 1e-5, so that a constant channel becomes 0.
    Source: Qin et al., IR-Net, CVPR 2020, Sec. 3.2 (Libra-PB).
    """
    source = centred(weight)
    return source / _per_channel(_variance(source).clamp_min(SMALLEST_VARIANCE).sqrt(), source)


def recu_standardised(source: Tensor) -> Tensor:
    """v / (sqrt(var + 1e-5) / (2 sqrt 2)) per output channel of the centred weight v [O, ...]; var is unbiased."""
    return source / (_per_channel((_variance(source) + EPS).sqrt(), source) / (2 * math.sqrt(2)))


def _variance(source: Tensor) -> Tensor:
    # A channel of one weight has no unbiased variance; its centred weight is 0 whatever it is divided by.
    return source.flatten(1).var(1, correction=min(1, source[0].numel() - 1))


def _per_channel(values: Tensor, source: Tensor) -> Tensor:
    return values.view(-1, *[1] * (source.dim() - 1))


def recu_tau(progress: float) -> float:
    """ReCU's quantile A e^(t/T) + B at ``progress`` = t / T in [0, 1] of the training; it runs from .85 to .99."""
    a = (TAU_END - TAU_START) / (math.e - 1)
    return a * math.exp(progress) + (TAU_START - a)


def recu(source: Tensor, progress: float) -> Tensor:
    """Centred weights, standardised and clamped to [-Q, Q], Q = -mean abs over the layer * ln(2 - 2 tau).

    Gradient: 1 inside [-Q, Q] and 0 outside, times that of :func:`recu_standardised`; none through Q. No sign changes,
    so ReCU only decides which latent weights still receive a gradient.
    Source: Xu et al., "ReCU: Reviving the Dead Weights in Binary Neural Networks", ICCV 2021.
    """
    w1 = recu_standardised(source)
    with torch.no_grad():
        quantile = w1.abs().mean() * -math.log(2 - 2 * recu_tau(progress))
    return w1.clamp(-quantile, quantile)


WEIGHT_METHODS: dict[str, WeightMethod] = {
    "sign": WeightMethod(lambda weight: weight),
    "centred": WeightMethod(centred),
    "centred_inputs": WeightMethod(centred_inputs),
    "standardised": WeightMethod(standardised),
    "recu": WeightMethod(centred, recu),
}
