"""Gradient estimators: what stands for the derivative of sign in the backward pass.

An estimator is a function of u, the number whose sign was taken, and keeps at most one byte per element of it:

=============  ==============================  ========================  ===========================================
name           stands for d sign(u) / du       keeps per element         source
=============  ==============================  ========================  ===========================================
``clip``       1 where abs(u) <= 1, else 0     1 byte (bool)             Hubara et al. 2016; BiMatting Eq. 1
``polynomial`` max(0, 2 - 2 abs(u))            1 byte (uint8)            Bi-Real Net, Liu et al. 2018
``identity``   1                               nothing                   Bengio et al. 2013; DoReFa-Net
=============  ==============================  ========================  ===========================================

``clip`` includes -1 and 1. BiMatting's Eq. 1 excludes them, but a latent weight that was clipped to exactly +-1 would
then never move again.

``polynomial`` is kept as round(127 max(0, 2 - 2 abs(u))), so its derivative is a multiple of 1/127: exact at 0, 1
and 2, at most 1/254 away elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

POLYNOMIAL_STEPS = 127


@dataclass(frozen=True)
class Estimator:
    """One estimator: ``keep(u)`` is what the forward pass stores (None: nothing), ``backward(grad, kept)`` uses it."""

    keep: Callable[[Tensor], Tensor | None]
    backward: Callable[[Tensor, Any], Tensor]


def _keep_polynomial(u: Tensor) -> Tensor:
    # .abs() made the one temporary that the rest works in.
    return u.abs().mul_(-2).add_(2).clamp_(min=0).mul_(POLYNOMIAL_STEPS).round_().to(torch.uint8)


def _backward_polynomial(grad: Tensor, kept: Tensor) -> Tensor:
    return kept.to(grad.dtype).div_(POLYNOMIAL_STEPS).mul_(grad)


ESTIMATORS: dict[str, Estimator] = {
    "clip": Estimator(lambda u: (u >= -1) & (u <= 1), lambda grad, kept: grad * kept),
    "polynomial": Estimator(_keep_polynomial, _backward_polynomial),
    "identity": Estimator(lambda u: None, lambda grad, kept: grad),
}
