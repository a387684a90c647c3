"""The threshold on the popcount that stands for multiplier, bias and the next layer's threshold."""

from __future__ import annotations

import numpy as np
import torch

from binmat.export.tflite.schema import Array
from binmat.quantizers.sign import is_negative


def popcount_thresholds(depth: int, multiplier: Array, bias: Array, threshold: Array) -> tuple[Array, Array]:
    """For every channel the integer t such that `popcount > t` is where the next binarization gives -1.

    depth: elements of a sum, so that sum = depth - 2 popcount. multiplier, bias, threshold: float32 [O].
    Returns thresholds int32 [O] and flipped bool [O]: channels whose weights must change sign, because their value
    grows with the popcount. The sign of sum * multiplier + bias - threshold is evaluated for every popcount in
    float32, as the graph does it; rounding keeps it monotone, so one integer holds it exactly.
    """
    flipped = multiplier < 0
    sums = (depth - 2 * torch.arange(depth + 1)).float() * torch.tensor(np.where(flipped, -1, 1))[:, None]
    scale, shift, level = (torch.tensor(a)[:, None] for a in (multiplier, bias, threshold))
    positive = ~is_negative(sums * scale + shift - level)
    return positive.sum(dim=1).int().numpy() - 1, flipped
