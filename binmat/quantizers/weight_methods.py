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
    return weight - weight.flatten(1).mean(1).view(-1, *[1] * (weight.dim() - 1))


def standardised(source: Tensor) -> Tensor:
    """v / (sqrt(var + 1e-5) / (2 sqrt 2)) per output channel of the centred weight v [O, ...]; var is unbiased."""
    # A channel of one weight has no unbiased variance; its centred weight is 0 whatever it is divided by.
    variance = source.flatten(1).var(1, correction=min(1, source[0].numel() - 1))
    deviation = (variance + EPS).sqrt().view(-1, *[1] * (source.dim() - 1))
    return source / (deviation / (2 * math.sqrt(2)))


def recu_tau(progress: float) -> float:
    """ReCU's quantile A e^(t/T) + B at ``progress`` = t / T in [0, 1] of the training; it runs from .85 to .99."""
    a = (TAU_END - TAU_START) / (math.e - 1)
    return a * math.exp(progress) + (TAU_START - a)


def recu(source: Tensor, progress: float) -> Tensor:
    """Centred weights, standardised and clamped to [-Q, Q], Q = -mean abs over the layer * ln(2 - 2 tau).

    Gradient: 1 inside [-Q, Q] and 0 outside, times that of :func:`standardised`; none through Q. No sign changes, so
    ReCU only decides which latent weights still receive a gradient.
    Source: Xu et al., "ReCU: Reviving the Dead Weights in Binary Neural Networks", ICCV 2021.
    """
    w1 = standardised(source)
    with torch.no_grad():
        quantile = w1.abs().mean() * -math.log(2 - 2 * recu_tau(progress))
    return w1.clamp(-quantile, quantile)


WEIGHT_METHODS: dict[str, WeightMethod] = {
    "sign": WeightMethod(lambda weight: weight),
    "centred": WeightMethod(centred),
    "recu": WeightMethod(centred, recu),
}
