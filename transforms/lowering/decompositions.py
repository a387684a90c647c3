"""Operators that lowering takes apart into simpler ones, each exactly, so that backends need fewer rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch.nn import functional as F

from .grid_sample import grid_sample
from .resampling_matrix import resize_by_matrices

aten = torch.ops.aten

_Decomposition = Callable[..., Any]

#: What torch's own decomposition takes apart into exact and simple operators.
_BY_TORCH: tuple[Any, ...] = (
    aten._log_softmax, aten.addcdiv, aten.affine_grid_generator, aten.all, aten.baddbmm, aten.clamp_max.Tensor,
    aten.clamp_min.Tensor, aten.count_nonzero, aten.diag_embed, aten.dot, aten.fill, aten.frac, aten.hardshrink,
    aten.heaviside, aten.huber_loss, aten.linalg_cross, aten.linalg_vector_norm, aten.log_sigmoid_forward,
    aten.logaddexp, aten.logit, aten.logsumexp, aten.mse_loss, aten.mv, aten.nan_to_num, aten.norm, aten.rot90,
    aten.select_scatter, aten.sinc, aten.smooth_l1_loss, aten.softshrink, aten.threshold, aten.tril, aten.triu,
    aten.unsafe_split, aten.xlogy,
)  # fmt: skip

_OWN: dict[Any, _Decomposition] = {}


def decompositions() -> dict[Any, _Decomposition]:
    """Operator -> the function that computes the same from simpler operators; a table for ``make_fx``."""
    return get_decompositions(_BY_TORCH) | _OWN


def _takes_apart(*operators: Any) -> Callable[[_Decomposition], _Decomposition]:
    def register(function: _Decomposition) -> _Decomposition:
        _OWN.update(dict.fromkeys(operators, function))
        return function

    return register


# Attention


@_takes_apart(aten._scaled_dot_product_flash_attention_for_cpu.default)
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """softmax(scale * query key^T + mask) value. query: [B, heads, L, E]; key, value: [B, heads, S, E].

    The second result is what the backward pass needs; in evaluation nothing reads it.
    """
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        scores = scores + torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, -math.inf)
    weights = scores.softmax(-1) if attn_mask is None else _safe_softmax(scores + attn_mask, -1)
    return weights @ value, scores


@_takes_apart(aten._safe_softmax.default)
def _safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax that gives 0 where everything is masked by -infinity."""
    return torch.where(x.amax(dim, True) == -math.inf, 0.0, x.softmax(dim, dtype))


# Functions of one element


_OF_ONE_ELEMENT: dict[Any, _Decomposition] = {
    aten.acos: lambda x: torch.atan2((1 - x * x).sqrt(), x),
    aten.acosh: lambda x: (x + (x * x - 1).sqrt()).log(),
    aten.asin: lambda x: torch.atan2(x, (1 - x * x).sqrt()),
    aten.asinh: lambda x: x.sign() * (x.abs() + (x * x + 1).sqrt()).log(),
    aten.atan: lambda x: torch.atan2(x, torch.ones_like(x)),
    aten.atanh: lambda x: ((1 + x) / (1 - x)).log() * 0.5,
    aten.cosh: lambda x: (x.exp() + (-x).exp()) * 0.5,
    aten.erfc: lambda x: 1 - torch.erf(x),
    aten.hypot: lambda x, y: (x * x + y * y).sqrt(),
    aten.exp2: lambda x: (x * math.log(2)).exp(),
    aten.expm1: lambda x: x.exp() - 1,
    aten.isnan: lambda x: x != x,
    aten.isneginf: lambda x: x == -math.inf,
    aten.isposinf: lambda x: x == math.inf,
    aten.log10: lambda x: x.log() * (1 / math.log(10)),
    aten.log1p: lambda x: (x + 1).log(),
    aten.log2: lambda x: x.log() * (1 / math.log(2)),
    aten.sinh: lambda x: (x.exp() - (-x).exp()) * 0.5,
    aten.tan: lambda x: x.sin() / x.cos(),
    aten.trunc: lambda x: x.sign() * x.abs().floor(),
}
_OWN.update({packet.default: function for packet, function in _OF_ONE_ELEMENT.items()})


@_takes_apart(aten.erf.default)
def _erf(x: Tensor) -> Tensor:
    """GELU(y) / y is the normal distribution's integral, and erf is that of another width, moved to 0."""
    y = x * math.sqrt(2)
    return torch.where(y == 0, 0.0, F.gelu(y) / y * 2 - 1)


@_takes_apart(aten.fmod.Scalar, aten.fmod.Tensor)
def _fmod(x: Tensor, divisor: Any) -> Tensor:
    return x.sign() * torch.remainder(x.abs(), abs(divisor))


@_takes_apart(aten.floor_divide.default, aten.floor_divide.Scalar)
def _floor_divide(x: Tensor, divisor: Tensor | float) -> Tensor:
    """Of floats; integers stay, since their quotient may be no float."""
    if not torch.result_type(x, divisor).is_floating_point:
        return NotImplemented
    # The quotient of a multiple may lie below the whole number, as 3 / 0.3 does.
    return ((x - torch.remainder(x, divisor)) / divisor).round()


@_takes_apart(aten.rrelu_with_noise_functional.default)
def _rrelu(
    x: Tensor, noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, *_: Any
) -> Any:
    return NotImplemented if training else (F.leaky_relu(x, (lower + upper) / 2), noise)


# Orders and distances


@_takes_apart(aten.sort.default)
def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    values, indices = torch.topk(x, x.shape[dim], dim, descending)
    return values, indices


@_takes_apart(aten.median.dim)
def _median(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, ...]:
    lower_half = torch.topk(x, (x.shape[dim] + 1) // 2, dim, False)
    found = [part.narrow(dim, -1, 1) for part in lower_half]
    return tuple(part if keepdim else part.squeeze(dim) for part in found)


@_takes_apart(aten._cdist_forward.default)
def _cdist(x: Tensor, other: Tensor, p: float, compute_mode: int | None) -> Tensor:
    return torch.linalg.vector_norm(x.unsqueeze(-2) - other.unsqueeze(-3), p, -1)


@_takes_apart(aten._trilinear.default)
def _trilinear(
    a: Tensor, b: Tensor, c: Tensor, for_a: Sequence[int], for_b: Sequence[int], for_c: Sequence[int], sums: list[int],
    unroll_dim: int = 1,
) -> Tensor:  # fmt: skip
    for dims in zip(for_a, strict=True):
        a = a.unsqueeze(*dims)
    for dims in zip(for_b, strict=True):
        b = b.unsqueeze(*dims)
    for dims in zip(for_c, strict=True):
        c = c.unsqueeze(*dims)
    return (a * b * c).sum(sums)


# Windows and places


@_takes_apart(aten.im2col.default)
def _im2col(x: Tensor, kernel: list[int], dilation: list[int], padding: list[int], stride: list[int]) -> Tensor:
    """F.unfold: one strided slice of the padded image per kernel position. x: [N, C, H, W] or [C, H, W]."""
    image = F.pad(x if x.dim() == 4 else x.unsqueeze(0), (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = (
        [slice(i * d, i * d + size - (k - 1) * d, s) for i in range(k)]
        for size, k, d, s in zip(image.shape[2:], kernel, dilation, stride, strict=True)
    )
    taps = torch.stack([image[:, :, row, column] for row in rows for column in columns], 2)
    windows = taps.reshape(image.shape[0], image.shape[1] * kernel[0] * kernel[1], -1)
    return windows if x.dim() == 4 else windows.squeeze(0)


@_takes_apart(aten.col2im.default)
def _col2im(
    x: Tensor, size: list[int], kernel: list[int], dilation: list[int], padding: list[int], stride: list[int]
) -> Tensor:
    """F.fold: the transposed convolution whose kernel puts each position where it was taken. x: [N, C kh kw, L]."""
    taps = kernel[0] * kernel[1]
    steps = [
        (n + 2 * p - d * (k - 1) - 1) // s
        for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    rest = [
        n + 2 * p - d * (k - 1) - 1 - s * last
        for n, p, d, k, s, last in zip(size, padding, dilation, kernel, stride, steps, strict=True)
    ]
    places = torch.eye(taps, dtype=x.dtype, device=x.device).view(taps, 1, *kernel)
    image = F.conv_transpose2d(
        x.reshape(-1, taps, steps[0] + 1, steps[1] + 1), places, None, stride, padding, rest, 1, dilation
    )
    return image.view(*x.shape[:-2], x.shape[-2] // taps, *size)


@_takes_apart(aten.unfold.default)
def _windows(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Tensor.unfold, by as few slices as either the windows or their elements need."""
    if x.dim() == 0:
        return NotImplemented
    dim %= x.dim()
    count = (x.shape[dim] - size) // step + 1
    if count <= size:
        return torch.stack([x.narrow(dim, i * step, size).movedim(dim, -1) for i in range(count)], dim)
    last = (count - 1) * step + 1
    return torch.stack([aten.slice.Tensor(x, dim, i, i + last, step) for i in range(size)], -1)


@_takes_apart(aten.diagonal.default)
def _diagonal(x: Tensor, offset: int = 0, first: int = 0, second: int = 1) -> Tensor:
    matrices = x.movedim((first, second), (-2, -1))
    rows, columns = matrices.shape[-2:]
    start = offset if offset >= 0 else -offset * columns
    length = min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns)
    return matrices.flatten(-2)[..., start : start + (length - 1) * (columns + 1) + 1 : columns + 1]


@_takes_apart(aten.index.Tensor, aten._unsafe_index.Tensor)
def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """x[..., i, j, ...] as one selection along the indexed dimensions, made one.

    Masks stay, since the size of their result depends on values.
    """
    given = [dim for dim, index in enumerate(indices) if index is not None]
    chosen = [index for index in indices if index is not None]
    if any(index.dtype in (torch.bool, torch.uint8) for index in chosen):
        return NotImplemented
    adjacent = given == list(range(given[0], given[-1] + 1))
    at = given[0] if adjacent else 0
    sizes = [x.shape[dim] for dim in given]
    moved = x.movedim(given, list(range(at, at + len(given))))
    flat = moved.flatten(at, at + len(given) - 1)
    place: Any = 0
    for index, size in zip(chosen, sizes, strict=True):
        place = place * size + torch.where(index < 0, index + size, index)
    selected = flat.index_select(at, place.reshape(-1))
    return selected.reshape(*flat.shape[:at], *place.shape, *flat.shape[at + 1 :])


@_takes_apart(aten.embedding.default)
def _embedding(table: Tensor, rows: Tensor, *_: Any) -> Tensor:
    return table.index_select(0, rows.reshape(-1)).reshape(*rows.shape, -1)


@_takes_apart(aten.index_put.default, aten._unsafe_index_put.default)
def _index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """x[mask] = value, of one value; other places stay."""
    mask = indices[0]
    if len(indices) != 1 or mask is None or mask.dtype != torch.bool or values.numel() != 1:
        return NotImplemented
    mask = mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim()))
    return torch.where(mask, x + values if accumulate else values, x)


@_takes_apart(aten.copy.default)
def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    return source.to(x.dtype).expand(x.shape)


@_takes_apart(aten.bucketize.Tensor)
def _bucketize(x: Tensor, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many boundaries lie below x (with ``right``: at x or below it)."""
    each = x.unsqueeze(-1)
    passed = boundaries <= each if right else boundaries < each
    return passed.sum(-1, dtype=torch.int32 if out_int32 else torch.int64)


# Tensors of one value, which depend on nothing. Memory that is filled later gets zeros: one network, one file.


@_takes_apart(aten.full_like.default, aten.new_full.default)
def _filled(x: Tensor, *arguments: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    *size, value = arguments
    return torch.full(size[0] if size else x.shape, value, dtype=dtype or x.dtype, device=x.device)


@_takes_apart(aten.empty_like.default, aten.new_empty.default, aten.new_zeros.default, aten.zeros_like.default)
def _zeros(x: Tensor, *size: Any, **options: Any) -> Tensor:
    return _filled(x, *size, 0, **options)


@_takes_apart(aten.new_ones.default, aten.ones_like.default)
def _ones(x: Tensor, *size: Any, **options: Any) -> Tensor:
    return _filled(x, *size, 1, **options)


# Resizing


_OWN[aten.grid_sampler_2d.default] = grid_sample
for _packet in (aten.upsample_bicubic2d, aten._upsample_bicubic2d_aa, aten._upsample_bilinear2d_aa):
    _OWN[_packet.default] = lambda x, *arguments, operator=_packet.default: resize_by_matrices(operator, x, *arguments)


for _line, _image in {
    aten.upsample_nearest1d: aten.upsample_nearest2d,
    aten._upsample_nearest_exact1d: aten._upsample_nearest_exact2d,
}.items():
    _OWN[_line.default] = lambda x, size, scale=None, operator=_image.default: operator(
        x.unsqueeze(2), [1, *size], None, scale
    ).squeeze(2)


@_takes_apart(aten.upsample_linear1d.default)
def _linear(x: Tensor, size: list[int], align_corners: bool, scale: float | None = None) -> Tensor:
    image: Tensor = aten.upsample_bilinear2d.default(x.unsqueeze(2), [1, *size], align_corners, None, scale)
    return image.squeeze(2)


for _volume, _image in {
    aten.upsample_nearest3d: aten.upsample_nearest2d,
    aten._upsample_nearest_exact3d: aten._upsample_nearest_exact2d,
}.items():
    _OWN[_volume.default] = lambda x, size, *scales, operator=_image.default: _in_two_steps(
        operator, x, size, (), *scales
    )


@_takes_apart(aten.upsample_trilinear3d.default)
def _trilinear_resize(x: Tensor, size: list[int], align_corners: bool, *scales: float | None) -> Tensor:
    return _in_two_steps(aten.upsample_bilinear2d.default, x, size, (align_corners,), *scales)


def _in_two_steps(
    operator: Any, x: Tensor, size: Sequence[int], options: tuple[bool, ...], *scales: float | None
) -> Tensor:
    """A volume resized as images: height and width first, then depth. x: [N, C, D, H, W]."""
    along_depth, *within = scales or (None, None, None)
    n, c, depth = x.shape[:3]
    images = operator(x.flatten(1, 2), size[1:], *options, *within)
    sheets = operator(images.reshape(n, c, depth, -1), [size[0], size[1] * size[2]], *options, along_depth, None)
    volume: Tensor = sheets.reshape(n, c, *size)
    return volume
