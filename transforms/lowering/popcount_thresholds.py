"""The threshold on the popcount that stands for multiplier, bias and the next layer's threshold."""

from __future__ import annotations

import torch
from torch import Tensor

from binmat.quantizers.sign import is_negative


def popcount_thresholds(depth: int, multiplier: Tensor, bias: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """For every channel the integer t such that `popcount > t` is where the next binarization gives -1.

    depth: elements of a sum, so that sum = depth - 2 popcount. multiplier, bias, threshold: float32 [O].
    Returns thresholds int32 [O] and flipped bool [O]: channels whose weights must change sign, because their value
    grows with the popcount. The sign of sum * multiplier + bias - threshold is evaluated for every popcount in
    float32, as the graph does it; rounding keeps it monotone, so one integer holds it exactly.
    """
    flipped = multiplier < 0
    sums = (depth - 2 * torch.arange(depth + 1)).float() * torch.where(flipped, -1, 1)[:, None]
    positive = ~is_negative(sums * multiplier[:, None] + bias[:, None] - threshold[:, None])
    return positive.sum(dim=1).int() - 1, flipped
