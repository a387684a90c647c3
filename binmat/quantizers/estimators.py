"""Gradient estimators: what stands for the derivative of sign in the backward pass.

An estimator is a function of u, the number whose sign was taken, and keeps at most one byte per element of it. Some
change with the training's progress p in [0, 1]:

=============  ==========================================  ==================  ======================================
name           stands for d sign(u) / du                   keeps per element   source
=============  ==========================================  ==================  ======================================
``clip``       1 where abs(u) <= 1, else 0                 1 byte (bool)       Hubara et al. 2016; BiMatting Eq. 1
``polynomial`` max(0, 2 - 2 abs(u))                        1 byte (uint8)      Bi-Real Net, Liu et al. 2018
``identity``   1                                           nothing             Bengio et al. 2013; DoReFa-Net
``ede``        k t (1 - tanh(t u)^2), t = 0.1 * 100^p,     1 byte (uint8)      IR-Net, Qin et al. 2020, Sec. 3.3
               k = max(1 / t, 1)
``fourier``    4 w / pi * sum of cos((2 i + 1) w u) over   1 byte (int8)       FDA, Xu et al. 2021
               i = 0 .. n where abs(u) <= 1, else 0;
               w = 0.1, n = 9 + floor(9 p)
``power``      0 where abs(u) > 1.5, m^(1/o - 1) where     1 byte (uint8)      ReSTE, Wu et al. 2023
               abs(u) <= m = 0.1, else
               abs(u)^(1/o - 1) / o; o = 3 - 2 cos(p pi/2)
=============  ==========================================  ==================  ======================================

``clip`` includes -1 and 1. BiMatting's Eq. 1 excludes them, but a latent weight that was clipped to exactly +-1 would
then never move again.

A curve is kept in steps of its largest value: 254 of them, or 127 on each side of 0 where it changes its sign. So
``polynomial`` is a multiple of 1/127: exact at 0, 1 and 2, at most 1/254 away elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EDE_START, EDE_END = 0.1, 10.0
FOURIER_FREQUENCY, FOURIER_TERMS = 0.1, 9
POWER_END, POWER_FLAT, POWER_WINDOW = 3, 0.1, 1.5


@dataclass(frozen=True)
class Estimator:
    """One estimator: ``keep(u)`` is what the forward pass stores (None: nothing), ``backward(grad, kept)`` uses it."""

    keep: Callable[[Tensor], Tensor | None]
    backward: Callable[[Tensor, Any], Tensor]


def curve(derivative: Callable[[Tensor], Tensor], largest: float, signed: bool = False) -> Estimator:
    """An estimator that keeps one byte of its derivative, a new tensor; largest: of its absolute values."""
    dtype, steps = (torch.int8, 127) if signed else (torch.uint8, 254)
    return Estimator(
        # A coarse float type may round above the largest, and a byte would wrap.
        lambda u: derivative(u).mul_(steps / largest).round_().clamp_(-steps if signed else 0, steps).to(dtype),
        lambda grad, kept: kept.to(grad.dtype).div_(steps / largest).mul_(grad),
    )


def _polynomial(u: Tensor) -> Tensor:
    # .abs() made the one temporary that the rest works in.
    return u.abs().mul_(-2).add_(2).clamp_(min=0)


def ede(progress: float) -> Estimator:
    """IR-Net's error decay estimator: the derivative of k tanh(t u)."""
    t = EDE_START * (EDE_END / EDE_START) ** progress
    largest = max(1.0, t)
    return curve(lambda u: (u * t).tanh_().square_().mul_(-largest).add_(largest), largest)


def fourier(progress: float) -> Estimator:
    """The derivative of the first n + 1 terms of the Fourier series of a square wave of the period 2 pi / w.

    With a term per component it is 4 w / pi * sin(2 (n + 1) w u) / (2 sin(w u)).
    """
    terms = FOURIER_TERMS + math.floor(FOURIER_TERMS * progress) + 1
    largest = 4 * FOURIER_FREQUENCY / math.pi * terms

    def derivative(u: Tensor) -> Tensor:
        angle = u * FOURIER_FREQUENCY
        total = sum((torch.cos((2 * i + 1) * angle) for i in range(terms)), torch.zeros_like(angle))
        return total.mul_(largest / terms).masked_fill_(u.abs() > 1, 0)

    return curve(derivative, largest, signed=True)


def power(progress: float) -> Estimator:
    """ReSTE's estimator: the derivative of sign(u) abs(u)^(1/o), replaced by a straight line near 0."""
    o = POWER_END - (POWER_END - 1) * math.cos(progress * math.pi / 2)
    largest = POWER_FLAT ** (1 / o - 1)

    def derivative(u: Tensor) -> Tensor:
        size = u.abs()
        flat, outside = size <= POWER_FLAT, size > POWER_WINDOW
        return size.pow_(1 / o - 1).div_(o).masked_fill_(flat, largest).masked_fill_(outside, 0)

    return curve(derivative, largest)


#: Name -> an estimator, or a function that gives one for the training's progress in [0, 1].
ESTIMATORS: dict[str, Estimator | Callable[[float], Estimator]] = {
    "clip": Estimator(lambda u: (u >= -1) & (u <= 1), lambda grad, kept: grad * kept),
    "polynomial": curve(_polynomial, 2),
    "identity": Estimator(lambda u: None, lambda grad, kept: grad),
    "ede": ede,
    "fourier": fourier,
    "power": power,
}


def estimator_at(name: str, progress: float) -> Estimator:
    """The estimator of that name at the training's progress in [0, 1]."""
    found = ESTIMATORS[name]
    return found if isinstance(found, Estimator) else found(progress)
