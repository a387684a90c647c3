"""The threshold on the popcount that stands for multiplier, bias and the next layer's threshold."""

from __future__ import annotations

import numpy as np

from binmat.export.tflite.schema import Array


def popcount_thresholds(depth: int, multiplier: Array, bias: Array, threshold: Array) -> tuple[Array, Array]:
    """For every channel the integer t such that `popcount > t` is where the next binarization gives -1.

    depth: elements of a sum, so that sum = depth - 2 popcount. multiplier, bias, threshold: float32 [O].
    Returns thresholds int32 [O] and flipped bool [O]: channels whose weights must change sign, because their value
    grows with the popcount. The comparison sum * multiplier + bias >= threshold is evaluated for every popcount in
    float32, as the graph does it; rounding keeps it monotone, so one integer holds it exactly.
    """
    flipped = multiplier < 0
    sums = (depth - 2 * np.arange(depth + 1)).astype(np.float32)[None, :] * np.where(flipped, -1, 1)[:, None]
    values = sums.astype(np.float32) * multiplier[:, None].astype(np.float32) + bias[:, None].astype(np.float32)
    positive = values >= threshold[:, None].astype(np.float32)
    return positive.sum(axis=1).astype(np.int32) - 1, flipped
