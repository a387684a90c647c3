"""Signs at their threshold: what a binarization compares, and how far flipped signs lie from it."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from binmat.transforms.lowering import binary_operators  # noqa: F401  (registers the operators)

BINARIZE = torch.ops.binmat.binarize.default
#: Below it float32 is denormal, which processors may flush to 0.
TINY = float(np.finfo(np.float32).tiny)
#: In standard deviations of the distance: float32 rounding decides the sign of what lies so near to its threshold.
NEAR = 1e-6


def distance_from_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """x - threshold, whose sign a binarization takes. x: [N, C, ...]; threshold: [1] or [C]."""
    return x - threshold.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))


def furthest(distance: Tensor, flipped: Tensor) -> float:
    """The largest distance from the threshold among flipped signs, in standard deviations of the distance.

    flipped: bool, like distance. Without flipped signs the result is 0. It is infinite where a distance is not a
    number: such a value has no sign, and a maximum would hide it.
    """
    if not flipped.any():
        return 0.0
    largest = float(distance[flipped].abs().max() / distance.std(correction=0).clamp_min(TINY))
    return largest if math.isfinite(largest) else math.inf


def count_near(distance: Tensor) -> int:
    """How many values lie within NEAR of their threshold."""
    return int((distance.abs() <= NEAR * distance.std(correction=0)).sum())
