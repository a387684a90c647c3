"""ReCU (Xu et al., "ReCU: Reviving the Dead Weights in Binary Neural Networks", ICCV 2021): weights and schedule.

Standardising and clamping keep the sign of the centred weight, so ReCU does not change what a layer computes. It
changes which latent weights still receive a gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TAU_START = 0.85
TAU_END = 0.99
EPS = 1e-5


def tau(progress: float) -> float:
    """The quantile A e^(t/T) + B at ``progress`` = t / T in [0, 1] of the training; it runs from .85 to .99."""
    a = (TAU_END - TAU_START) / (math.e - 1)
    return a * math.exp(progress) + (TAU_START - a)


def standardised(centred: Tensor) -> Tensor:
    """v / (sqrt(var + 1e-5) / (2 sqrt 2)) per output channel of the centred weight v [O, ...]; var is unbiased."""
    # A channel of one weight has no unbiased variance; its centred weight is 0 whatever it is divided by.
    variance = centred.flatten(1).var(1, correction=min(1, centred[0].numel() - 1))
    deviation = (variance + EPS).sqrt().view(-1, *[1] * (centred.dim() - 1))
    return centred / (deviation / (2 * math.sqrt(2)))


def clamped(centred: Tensor, progress: float) -> Tensor:
    """Centred weights, standardised and clamped to [-Q, Q], Q = -mean abs over the layer * ln(2 - 2 tau).

    Gradient: 1 inside [-Q, Q] and 0 outside, times that of :func:`standardised`; none through Q.
    """
    w1 = standardised(centred)
    with torch.no_grad():
        quantile = w1.abs().mean() * -math.log(2 - 2 * tau(progress))
    return w1.clamp(-quantile, quantile)
