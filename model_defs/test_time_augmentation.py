"""Test-time augmentation: the mean of a network's mattes of flipped, rotated and resized copies of an image."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from binmat.errors import InputError

#: The scales of LSA-Matting's test-time augmentation (section 5.1).
SCALES = (0.8, 1.0, 1.25)

#: How many views may be averaged -> the scales of the eight flips and rotations; None for the image alone.
VIEWS = {1: None, 8: (1.0,), 24: SCALES}


def check_views(views: int) -> None:
    """Raise InputError for a number of views that is not one of :data:`VIEWS`."""
    if views not in VIEWS:
        raise InputError(
            f"test-time augmentation cannot average {views} views: give 1, 8 (flips and rotations) or 24 (three scales)"
        )


def mean_over_views(
    estimate: Callable[[Tensor, Tensor], Tensor], image: Tensor, regions: Tensor, views: int
) -> Tensor:
    """The mean of the mattes of several views of an image, each turned back to the image's place.

    estimate: (image [1, 3, h, w], regions [1, 1, h, w]) -> alpha [1, 1, h, w]. image: [1, 3, H, W] in [0, 1]. regions:
    the trimap's, uint8 [1, 1, H, W]. views: 1, the image alone; 8, it and its transpose, each as it is and flipped
    along one axis or both, which are the rotations by 0, 90, 180 and 270 degrees of the image and of its mirror image;
    24, these at each of :data:`SCALES`. Raises InputError for any other number.

    Sizes are rounded down. Images and mattes are resized bicubically, images clamped to [0, 1], regions to their
    nearest pixels. Source: Wang et al., "Improving Deep Image Matting via Local Smoothness Assumption", section 5.1;
    the ways of resizing are the official implementation's.
    """
    check_views(views)
    scales = VIEWS[views]
    if scales is None:
        return estimate(image, regions)
    height, width = image.shape[2:]
    total = torch.zeros_like(regions, dtype=image.dtype)
    for scale in scales:
        size = max(1, int(scale * height)), max(1, int(scale * width))
        resized = _bicubic(image, size).clamp(0, 1)
        alpha = _mean_over_turns(estimate, resized, F.interpolate(regions, size=size, mode="nearest"))
        total += _bicubic(alpha, (height, width))
    return total / len(scales)


def _mean_over_turns(estimate: Callable[[Tensor, Tensor], Tensor], image: Tensor, regions: Tensor) -> Tensor:
    total = torch.zeros_like(regions, dtype=image.dtype)
    for transposed in (False, True):
        upright = [x.transpose(2, 3) if transposed else x for x in (image, regions)]
        for axes in ((), (2,), (3,), (2, 3)):
            alpha = estimate(*(x.flip(axes) for x in upright)).flip(axes)
            total += alpha.transpose(2, 3) if transposed else alpha
    return total / 8


def _bicubic(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="bicubic", align_corners=False)
