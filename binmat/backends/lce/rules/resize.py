"""Interpolation. TFLite knows the sizes only; torch may have been given a scale that does not divide them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.rules.elementwise import Operand, arithmetic_like
from binmat.backends.lce.rules.shapes import narrow
from binmat.backends.lce.values import Value

aten = torch.ops.aten

Scale = float | None


def _ratio(size: int, out: int, scale: Scale) -> float:
    """Input elements per output element, as torch computes it."""
    return 1 / scale if scale else size / out


def _is_size_ratio(size: int, out: int, scale: Scale) -> bool:
    """Whether the scale given to torch is the ratio of the sizes, to float32's precision."""
    return bool(np.float32(_ratio(size, out, scale)) == np.float32(size / out))


@rule(aten.upsample_bilinear2d.default)
def bilinear(e: Emitter, x: Operand, size: Sequence[int], align_corners: bool, scale_h: Scale, scale_w: Scale) -> Value:
    value = e.preferred(x)
    out = e.output_shape[2:]
    if not align_corners:
        for dim, scale in ((2, scale_h), (3, scale_w)):
            value = _bilinear_by_scale(e, value, dim, out[dim - 2], scale)
    if value.shape[2:] == out:
        return value
    options: dict[str, Any] = {"align_corners": align_corners, "half_pixel_centers": not align_corners}
    return e.emit("RESIZE_BILINEAR", [value, e.integers(out)], e.output_shape, **options)


def _bilinear_by_scale(e: Emitter, value: Value, dim: int, out: int, scale: Scale) -> Value:
    """Make the ratio of sizes along `dim` the one torch uses, or resize along `dim` right here."""
    size = value.shape[dim]
    if _is_size_ratio(size, out, scale):
        return value
    ratio = _ratio(size, out, scale)
    if ratio.is_integer() and out * ratio < size:
        return narrow(e, value, dim, 0, int(out * ratio))
    places = np.maximum(np.float32(ratio) * (np.arange(out, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    lower = np.minimum(places.astype(np.int32), size - 1)
    upper = np.minimum(lower + 1, size - 1)
    shape = [1, 1, 1, 1]
    shape[dim] = out
    share = torch.from_numpy(places - lower).reshape(shape)
    near = arithmetic_like(e, "MUL", e.gather(value, lower.tolist(), dim), 1 - share)
    far = arithmetic_like(e, "MUL", e.gather(value, upper.tolist(), dim), share)
    return arithmetic_like(e, "ADD", near, far)


@rule(aten.upsample_bilinear2d.vec)
def bilinear_by_factors(
    e: Emitter, x: Operand, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None
) -> Value:
    return bilinear(e, x, e.output_shape[2:], align_corners, *(factors or (None, None)))


def _nearest(
    e: Emitter, x: Operand, scales: Sequence[Scale], half_pixel: bool, indices: Callable[..., torch.Tensor]
) -> Value:
    value = e.preferred(x)
    out = e.output_shape[2:]
    if all(_is_size_ratio(n, o, s) for n, o, s in zip(value.shape[2:], out, scales, strict=True)):
        inputs = [value.tensor, e.integers(out)]
        return e.emit("RESIZE_NEAREST_NEIGHBOR", inputs, e.output_shape, half_pixel_centers=half_pixel)
    for dim, target, scale in zip((2, 3), out, scales, strict=True):
        ramp = torch.arange(value.shape[dim], dtype=torch.float32).reshape(1, 1, -1, 1)
        # torch itself says which element it takes.
        places = indices(ramp, [target, 1], scale, None).flatten()
        value = e.gather(value, [int(place) for place in places], dim)
    return value


@rule(aten.upsample_nearest2d.default)
def nearest(e: Emitter, x: Operand, size: Sequence[int], scale_h: Scale, scale_w: Scale) -> Value:
    return _nearest(e, x, (scale_h, scale_w), False, aten.upsample_nearest2d.default)


@rule(aten.upsample_nearest2d.vec)
def nearest_by_factors(e: Emitter, x: Operand, size: Sequence[int] | None, factors: Sequence[float] | None) -> Value:
    return _nearest(e, x, factors or (None, None), False, aten.upsample_nearest2d.default)


@rule(aten._upsample_nearest_exact2d.default)
def nearest_exact(e: Emitter, x: Operand, size: Sequence[int], scale_h: Scale, scale_w: Scale) -> Value:
    return _nearest(e, x, (scale_h, scale_w), True, aten._upsample_nearest_exact2d.default)


def _weights(e: Emitter, size: int, arguments: list[Any]) -> torch.Tensor:
    """How much of each input element an output element takes along one dimension, [out, size]: torch itself says.

    arguments: of torch's operator behind its input, for an image of [size, size] whose columns stay as they are.
    """
    weights: torch.Tensor = e.node.target(torch.eye(size)[None, None], *arguments)  # type: ignore[operator]
    return weights[0, 0]


def _separable(e: Emitter, value: Value, dim: int, weights: torch.Tensor) -> Value:
    """Sums of a few gathered elements, or, where an output takes many, of as many as the widest one takes."""
    out, size = weights.shape
    if out == size and torch.equal(weights, torch.eye(size)):
        return value
    taken = weights != 0
    taps = int(taken.sum(1).max())
    # What is taken comes first; the rest have weight 0.
    places = taken.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :taps]
    shares = weights.gather(1, places)
    shape = [1] * len(value.shape)
    shape[dim] = out
    total: Value | None = None
    for tap in range(taps):
        part = e.gather(value, places[:, tap].tolist(), dim)
        part = arithmetic_like(e, "MUL", part, shares[:, tap].reshape(shape))
        total = part if total is None else arithmetic_like(e, "ADD", total, part)
    assert total is not None
    return total


def _by_weights(e: Emitter, x: Operand, align_corners: bool, scales: Sequence[Scale]) -> Value:
    """An interpolation that TFLite lacks, one dimension after the other."""
    value = e.preferred(x)
    for dim, scale in zip((2, 3), scales, strict=True):
        size, out = value.shape[dim], e.output_shape[dim]
        value = _separable(e, value, dim, _weights(e, size, [[out, size], align_corners, scale, None]))
    return value


@rule(
    aten.upsample_bicubic2d.default, aten._upsample_bicubic2d_aa.default, aten._upsample_bilinear2d_aa.default
)
def by_weights(e: Emitter, x: Operand, size: Sequence[int], align_corners: bool, *scales: Scale) -> Value:
    return _by_weights(e, x, align_corners, scales)


@rule(aten.upsample_bicubic2d.vec, aten._upsample_bicubic2d_aa.vec, aten._upsample_bilinear2d_aa.vec)
def by_weights_and_factors(
    e: Emitter, x: Operand, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None
) -> Value:
    value = e.preferred(x)
    for dim in (2, 3):
        length, out = value.shape[dim], e.output_shape[dim]
        scale = None if factors is None else [factors[dim - 2], 1.0]
        value = _separable(e, value, dim, _weights(e, length, [None if scale else [out, length], align_corners, scale]))
    return value


def _linear(e: Emitter, x: Operand, align_corners: bool, scales: Sequence[Scale]) -> Value:
    value = e.value(x)
    for dim, scale in enumerate(scales, len(value.shape) - len(scales)):
        size, out = value.shape[dim], e.output_shape[dim]
        weights = aten.upsample_linear1d.default(torch.eye(size)[None], [out], align_corners, scale)[0].t()
        value = _separable(e, value, dim, weights)
    return value


@rule(aten.upsample_linear1d.default, aten.upsample_trilinear3d.default)
def linear(e: Emitter, x: Operand, size: Sequence[int], align_corners: bool, *scales: Scale) -> Value:
    return _linear(e, x, align_corners, scales)


@rule(aten.upsample_linear1d.vec, aten.upsample_trilinear3d.vec)
def linear_by_factors(
    e: Emitter, x: Operand, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None
) -> Value:
    return _linear(e, x, align_corners, factors or [None] * (len(e.output_shape) - 2))
