"""Sampling an image at computed places, by arithmetic and one selection per neighbour."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from binmat.errors import LoweringError

#: torch's codes: of the interpolation, and of what lies outside of the image.
_BILINEAR, _NEAREST = 0, 1
_ZEROS, _BORDER = 0, 1

#: The parameter of torch's cubic convolution.
_CUBIC = -0.75


def grid_sample(image: Tensor, grid: Tensor, interpolation: int, padding: int, align_corners: bool) -> Tensor:
    """F.grid_sample. image: [N, C, H, W]; grid: [N, H', W', 2] of (x, y) in [-1, 1].

    All images are one row of pixels, so that each neighbour is one selection, whatever N is. Raises LoweringError for
    more pixels than float32 can number exactly.
    """
    count, channels, height, width = image.shape
    if count * height * width > 2**24:
        raise LoweringError(
            f"grid_sample of {count} images of {height}x{width} has more than 2^24 pixels, which float32 cannot "
            "number: give a smaller size"
        )
    pixels = image.transpose(0, 1).reshape(channels, -1)
    first = torch.arange(count, dtype=grid.dtype, device=grid.device).view(-1, 1, 1) * (height * width)
    places = grid[..., 1], grid[..., 0]
    return _sample(pixels, first, (height, width), *places, interpolation, padding, align_corners).transpose(0, 1)


def _sample(
    pixels: Tensor,
    first: Tensor,
    size: tuple[int, int],
    y: Tensor,
    x: Tensor,
    interpolation: int,
    padding: int,
    align_corners: bool,
) -> Tensor:
    """[C, N, H', W'] from pixels [C, N H W] at y and x [N, H', W'].

    first: where each image begins, [N, 1, 1]. size: (height, width) of an image.
    """
    height, width = size
    row, column = (
        place * ((n - 1) / 2 if align_corners else n / 2) + (n - 1) / 2 for place, n in ((y, height), (x, width))
    )
    inside_row, inside_column = (_into_image(n, padding, align_corners) for n in size)

    def pixel(at_row: Tensor, at_column: Tensor) -> Tensor:
        place = first + at_row.clamp(0, height - 1) * width + at_column.clamp(0, width - 1)
        value = pixels.index_select(1, place.to(torch.int32).reshape(-1)).view(-1, *place.shape)
        if padding != _ZEROS:
            return value
        inside = (at_row >= 0) & (at_row <= height - 1) & (at_column >= 0) & (at_column <= width - 1)
        return value * inside.to(value.dtype)

    if interpolation == _NEAREST:
        return pixel(inside_row(row).round(), inside_column(column).round())
    if interpolation == _BILINEAR:
        row, column = inside_row(row), inside_column(column)
    top, left = row.floor(), column.floor()
    weights = _linear_weights if interpolation == _BILINEAR else _cubic_weights
    total = None
    for down, share_down in weights(row - top):
        for right, share_right in weights(column - left):
            at_row, at_column = top + down, left + right
            if interpolation != _BILINEAR:
                at_row, at_column = inside_row(at_row), inside_column(at_column)
            part = pixel(at_row, at_column) * (share_down * share_right)
            total = part if total is None else total + part
    assert total is not None
    return total


def _into_image(size: int, padding: int, align_corners: bool) -> Callable[[Tensor], Tensor]:
    """What torch does to a coordinate outside of an axis: nothing, the border's, or the mirrored one."""
    if padding == _ZEROS:
        return lambda place: place
    if padding == _BORDER:
        return lambda place: place.clamp(0, size - 1)
    low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
    if span == 0:
        return torch.zeros_like

    def mirrored(place: Tensor) -> Tensor:
        beyond = torch.remainder((place - low).abs(), 2 * span)
        return (torch.minimum(beyond, 2 * span - beyond) + low).clamp(0, size - 1)

    return mirrored


def _linear_weights(fraction: Tensor) -> list[tuple[int, Tensor]]:
    return [(0, 1 - fraction), (1, fraction)]


def _cubic_weights(fraction: Tensor) -> list[tuple[int, Tensor]]:
    def near(t: Tensor) -> Tensor:
        return ((_CUBIC + 2) * t - (_CUBIC + 3)) * t * t + 1

    def far(t: Tensor) -> Tensor:
        return ((_CUBIC * t - 5 * _CUBIC) * t + 8 * _CUBIC) * t - 4 * _CUBIC

    return [(-1, far(fraction + 1)), (0, near(fraction)), (1, near(1 - fraction)), (2, far(2 - fraction))]
