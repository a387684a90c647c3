"""Images of any size for networks that take multiples of a number, or that were made for smaller images."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from binmat.errors import SizeError


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """[N, C, H, W] with its last row and column repeated until H and W are multiples; crop the result back to H x W."""
    height, width = x.shape[2], x.shape[3]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")


def reduced_size(
    height: int, width: int, downsample_ratio: float, rounding: Callable[[float], int] = round
) -> tuple[int, int]:
    """The size times the ratio, rounded. Raises SizeError for a ratio that is not positive or leaves no pixel."""
    if not 0 < downsample_ratio < math.inf:
        raise SizeError(f"downsample ratio {downsample_ratio} is not a positive number: pass for example 0.5")
    small = rounding(height * downsample_ratio), rounding(width * downsample_ratio)
    if min(small) < 1:
        raise SizeError(
            f"downsample ratio {downsample_ratio} leaves {small[0]}x{small[1]} of {height}x{width}: pass a larger one"
        )
    return small


def enlarge(alpha: Tensor, height: int, width: int) -> Tensor:
    """A matte [N, 1, h, w] at another size, bilinearly."""
    return F.interpolate(alpha, size=(height, width), mode="bilinear", align_corners=False)
