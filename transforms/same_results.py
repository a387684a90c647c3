"""Whether two calls gave the same tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Largest difference, relative to the largest value, of what runs the same operators.
TOLERANCE = 1e-5


def first_difference(expected: Sequence[Tensor | None], actual: Sequence[Tensor | None]) -> int | None:
    """The index of the first tensor that is another one, or None: in number, shape, dtype or value. NaN equals NaN."""
    for index, (one, other) in enumerate(zip(expected, actual, strict=False)):
        if one is None or other is None:
            if one is not other:
                return index
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            return index
        scale = float(one.abs().max()) if one.numel() and one.is_floating_point() else 1.0
        if not torch.allclose(other, one, rtol=0, atol=TOLERANCE * scale, equal_nan=True):
            return index
    return None if len(expected) == len(actual) else min(len(expected), len(actual))
