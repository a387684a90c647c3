"""Crop-and-stitch inference: a matte of any size from overlapping windows of one size, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from binmat.errors import InputError, SizeError
from binmat.progress import Progress, silent

from .network import Window
from .trimap import BACKGROUND, UNKNOWN, Trimap, one_hot, transform_map
from .trimap_network import alpha_alone

#: Height and width of a window; the stride is half of it (LiteMatting, official implementation).
WINDOW = 640

#: (image [1, 3, w, w] in [0, 1], one-hot trimap [1, 3, w, w], transform map [1, 2, w, w])
#: -> alpha [1, 1, w, w], alone or first.
WindowNetwork = Callable[[Tensor, Tensor, Tensor], Tensor | tuple[Tensor, ...]]


def crop_and_stitch(
    network: WindowNetwork,
    image: Tensor,
    trimap: Trimap,
    *,
    window: int = WINDOW,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    progress: Progress = silent,
) -> Tensor:
    """The matte of an image of any size: float32 [H, W] in [0, 1], on the CPU.

    network: LiteMatting, or any callable of its three inputs that takes windows of this size.
    image: [3, H, W] RGB, uint8 or floating point in [0, 1]; it is cropped first and converted window by window.
    window: height and width of a window, even, and a size that the network takes; the stride is half of it.
    device, dtype: where the network is and what its weights are; the windows are sent there one by one.
    progress: called with (windows done, windows to do).

    An image smaller than a window is padded on both sides, replicating its border; the trimap is padded with
    background, which the transform map sees. Each window's alpha has the weight (distance to the window's border + 1)
    / (stride + 1), and the weighted mean is taken. Known pixels are 0 and 1 as the trimap says. Windows with at most
    one unknown pixel are skipped; the official code then divides zero by zero where no other window covers that pixel.
    Here the window in which such a pixel weighs most is computed, so every unknown pixel has an estimate
    (:func:`plan_windows`). A trimap without unknown pixels is answered without the network.

    Memory beyond the image and the trimap: 16 bytes per pixel (transform map, weighted sum, weights) and one window's
    activations. Raises InputError for an image that does not fit the trimap, SizeError for an odd window.
    """
    if image.dim() != 3 or image.shape[0] != 3:
        raise InputError(f"the image has the shape {list(image.shape)}: give RGB, [3, height, width]")
    if tuple(image.shape[1:]) != trimap.size:
        raise InputError(
            f"the image has {image.shape[1]}x{image.shape[2]} pixels and its trimap {trimap.size[0]}x{trimap.size[1]}: "
            "give the trimap of this image"
        )
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise InputError(f"the image's values are {image.dtype}: give uint8, or floats from 0 to 1")
    if window < 2 or window % 2:
        raise SizeError(f"a window of {window} pixels has no half as stride: give an even size, for example {WINDOW}")
    if trimap.all_known:
        return trimap.alpha()
    height, width = trimap.size
    rows, columns = _padded_indices(height, window), _padded_indices(width, window)
    regions, above, before = _padded_regions(trimap, window)
    maps = transform_map(regions)
    weight = window_weight(window)
    weighted, total = torch.zeros(regions.shape), torch.zeros(regions.shape)
    windows = plan_windows(regions == UNKNOWN, window)
    for done, (top, left) in enumerate(windows):
        progress(done, len(windows))
        here = (slice(top, top + window), slice(left, left + window))
        crop = image[:, rows[here[0]].unsqueeze(1), columns[here[1]]]
        unit = crop.float() / 255 if crop.dtype == torch.uint8 else crop.float()
        inputs = (unit, one_hot(regions[here]), maps[:, here[0], here[1]])
        with torch.no_grad():
            alpha = alpha_alone(network(*(tensor.unsqueeze(0).to(device, dtype) for tensor in inputs)))
        weighted[here] += weight * alpha[0, 0].to("cpu", torch.float32)
        total[here] += weight
    progress(len(windows), len(windows))
    # No window is computed over most of a large background: a weight of 0 there must not become 0 / 0.
    matte = weighted.div_(total.clamp_(min=torch.finfo(torch.float32).tiny))
    return trimap.settle(matte[above : above + height, before : before + width])


def windows_of(trimap: Trimap, window: int = WINDOW) -> tuple[Window, ...]:
    """The windows that :func:`crop_and_stitch` computes, in its order, where they lie in the image."""
    if trimap.all_known:
        return ()
    regions, above, before = _padded_regions(trimap, window)
    planned = plan_windows(regions == UNKNOWN, window)
    return tuple(Window(top - above, left - before, window, window) for top, left in planned)


def plan_windows(unknown: npt.NDArray[np.bool_], window: int = WINDOW) -> list[tuple[int, int]]:
    """Top and left of the windows to compute over a mask [H, W] of unknown pixels, both at least a window large.

    All windows at strides of half a window, the last ones moved back to the border, with more than one unknown
    pixel; and for each unknown pixel that none of them covers, the window in which it has the largest weight (the first
    of equals). Every unknown pixel is covered.
    """
    height, width = unknown.shape
    grid = [(top, left) for top in _starts(height, window) for left in _starts(width, window)]
    planned = [
        (top, left) for top, left in grid if np.count_nonzero(unknown[top : top + window, left : left + window]) > 1
    ]
    uncovered = unknown.copy()
    for top, left in planned:
        uncovered[top : top + window, left : left + window] = False
    for y, x in np.argwhere(uncovered):
        planned.append(max(grid, key=lambda start: _depth(y - start[0], x - start[1], window)))
    return planned


def window_weight(window: int = WINDOW) -> Tensor:
    """float32 [window, window]: (distance to the window's border + 1) / (window / 2 + 1), from near 0 to near 1."""
    line = torch.arange(window, dtype=torch.float32)
    depth = torch.minimum(line, line.flip(0)) + 1
    return torch.minimum(depth.unsqueeze(1), depth) / (window // 2 + 1)


def _starts(length: int, window: int) -> list[int]:
    """Where windows start along one axis; the last ends at the border."""
    return [*range(0, length - window, window // 2), length - window]


def _depth(y: int, x: int, window: int) -> int:
    """Distance of a pixel inside a window to its border, plus one; not positive outside."""
    return min(y, x, window - 1 - y, window - 1 - x) + 1


def _padded_regions(trimap: Trimap, window: int) -> tuple[npt.NDArray[np.uint8], int, int]:
    """The trimap padded with background to a window, and how many rows and columns come before it."""
    height, width = trimap.size
    above, before = max(window - height, 0) // 2, max(window - width, 0) // 2
    regions = np.full((max(window, height), max(window, width)), BACKGROUND, np.uint8)
    regions[above : above + height, before : before + width] = trimap.regions
    return regions, above, before


def _padded_indices(length: int, window: int) -> Tensor:
    """Which pixel stands where along an axis that is padded to a window by replicating its ends."""
    missing = max(window - length, 0)
    before = missing // 2
    return torch.arange(-before, length + missing - before).clamp(0, length - 1)
