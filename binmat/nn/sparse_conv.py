"""Run convolutions at some pixels only: gather their windows, compute, scatter. Equal to the dense result there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.nn.binary_conv import BinaryConv2d
from binmat.nn.operators import OPERATORS, operator_of

#: Numbers gathered at a time: what a core's second-level cache holds.
_CHUNK = 2**18


def keeps_size(conv: nn.Conv2d) -> bool:
    """Whether the convolution is ungrouped, zero-padded and maps every size to itself."""
    wanted = [d * (k - 1) / 2 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    return (
        conv.groups == 1
        and conv.stride == (1, 1)
        and conv.padding_mode == "zeros"
        and (conv.padding == "same" or list(conv.padding) == wanted)
        and all(w.is_integer() for w in wanted)
    )


def can_skip(layers: Iterable[nn.Module]) -> bool:
    """Whether :func:`run_at` knows all of these layers, as they are now (batch norm in evaluation)."""
    for layer in layers:
        known = operator_of(type(layer))
        fits = keeps_size(layer) if isinstance(layer, nn.Conv2d) else known is not None and known.pointwise
        if known is OPERATORS["batch_norm"]:
            fits = not layer.training and layer.running_mean is not None
        if not fits:
            return False
    return True


def run_at(layers: Sequence[nn.Module], x: Tensor, mask: Tensor) -> Tensor:
    """layers(x) * mask, computed where mask is not 0 and exactly 0 elsewhere.

    x: [N, C, H, W]; mask: [N, 1, H, W]. layers: such as :func:`can_skip` accepts. Without gradients.
    """
    batch, _, height, width = x.shape
    # Where each layer's result is needed, from the last layer back.
    needed = mask != 0
    where = []
    for layer in reversed(layers):
        where.append(_places(needed))
        if isinstance(layer, nn.Conv2d):
            needed = _dilated(needed, layer)
    columns = _gather(x, _places(needed), (batch, height, width))
    for layer, places in zip(layers, reversed(where), strict=True):
        if isinstance(layer, nn.Conv2d):
            columns = _convolve(layer, columns, places)
        else:
            columns = _Columns(layer(columns.values[None])[0], columns.places, columns.size)
    values = columns.values[..., 0]
    result = values.new_zeros(values.shape[0], batch * height * width)
    result[:, columns.places] = values * mask.reshape(1, -1)[:, columns.places].to(values.dtype)
    return result.unflatten(1, (batch, height * width)).transpose(0, 1).unflatten(2, (height, width))


@dataclass(frozen=True)
class _Columns:
    """The values [C, P, 1] at P pixels of maps of size (N, H, W); places [P] counts them row by row, ascending."""

    values: Tensor
    places: Tensor
    size: tuple[int, int, int]


def _places(needed: Tensor) -> Tensor:
    return needed.flatten().nonzero()[:, 0]


def _dilated(needed: Tensor, conv: nn.Conv2d) -> Tensor:
    """The pixels in the windows of the needed ones."""
    reach = [d * (k - 1) // 2 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
    if not any(reach):
        return needed
    window = [2 * r + 1 for r in reach]
    return F.max_pool2d(needed.float(), window, stride=1, padding=reach) != 0


def _gather(x: Tensor, places: Tensor, size: tuple[int, int, int]) -> _Columns:
    frames, pixels = x.shape[0], size[1] * size[2]
    ends = torch.searchsorted(places, torch.arange(frames + 1, device=x.device) * pixels).tolist()
    parts = [
        x[n].reshape(x.shape[1], pixels).index_select(1, places[ends[n] : ends[n + 1]] - n * pixels)
        for n in range(frames)
    ]
    values = parts[0] if frames == 1 else torch.cat(parts, dim=1)
    return _Columns(values[..., None], places, size)


def _convolve(conv: nn.Conv2d, columns: _Columns, places: Tensor) -> _Columns:
    product = partial(_windows, conv, columns, places)
    if isinstance(conv, BinaryConv2d):
        return _Columns(conv.compute(columns.values, product), places, columns.size)
    y = product(columns.values, conv.weight, 0)
    return _Columns(y if conv.bias is None else y + conv.bias.view(-1, 1, 1), places, columns.size)


def _windows(
    conv: nn.Conv2d, columns: _Columns, places: Tensor, values: Tensor, weight: Tensor, pad_value: float
) -> Tensor:
    """Sums of the windows round the places, [O, P, 1], of other values at the columns; weight: [O, C, kh, kw]."""
    channels, known, _ = values.shape
    batch, height, width = columns.size
    (kh, kw), (dh, dw) = conv.kernel_size, conv.dilation
    top, left = dh * (kh - 1) // 2, dw * (kw - 1) // 2
    # One row per known pixel, and a last one for everything outside the map.
    rows = values.new_empty(known + 1, channels)
    rows[:known] = values[..., 0].t()
    rows[known] = pad_value
    padded_height, padded_width = height + 2 * top, width + 2 * left
    row_of = torch.full((batch * padded_height * padded_width,), known, device=rows.device)
    frame, pixel = columns.places // (height * width), columns.places % (height * width)
    corner = (frame * padded_height + pixel // width) * padded_width + pixel % width
    row_of[corner + top * padded_width + left] = torch.arange(known, device=rows.device)
    frame, pixel = places // (height * width), places % (height * width)
    corner = (frame * padded_height + pixel // width) * padded_width + pixel % width
    vertical, horizontal = (torch.arange(k, device=rows.device) * d for k, d in ((kh, dh), (kw, dw)))
    taps = (vertical[:, None] * padded_width + horizontal).flatten()
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])
    sums = [
        rows.index_select(0, row_of[(part[:, None] + taps).flatten()]).view(part.shape[0], matrix.shape[0]) @ matrix
        for part in corner.split(max(1, _CHUNK // matrix.shape[0]))
    ]
    return torch.cat(sums).t()[..., None]
