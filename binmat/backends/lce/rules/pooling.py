"""Pooling. Padding is explicit, and the mean is corrected where torch counts other elements than TFLite."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.padding import is_same, padded
from binmat.backends.lce.rules.elementwise import Ints, Operand, arithmetic, arithmetic_like
from binmat.backends.lce.rules.reductions import LONGEST_SUM, mean_over, reduce
from binmat.backends.lce.rules.shapes import images, narrow
from binmat.backends.lce.tflite.schema import Array, Padding
from binmat.backends.lce.values import Value
from binmat.transforms.lowering.windows import Axis, axes

aten = torch.ops.aten


def _pool(e: Emitter, kind: str, value: Value, windows: tuple[Axis, Axis], padding: Padding) -> Value:
    vertical, horizontal = windows
    return e.emit(
        kind,
        [value],
        (*value.shape[:2], vertical.out, horizontal.out),
        padding=padding,
        stride_h=vertical.stride,
        stride_w=horizontal.stride,
        filter_h=vertical.kernel,
        filter_w=horizontal.kernel,
    )


def _mean_pool(e: Emitter, value: Value, windows: tuple[Axis, Axis]) -> Value:
    """The mean of each window, without padding; of a large one rows first, then columns: TFLite adds one by one."""
    vertical, horizontal = windows
    if vertical.kernel * horizontal.kernel <= LONGEST_SUM:
        return _pool(e, "AVERAGE_POOL_2D", value, windows, Padding.VALID)
    columns = value.shape[3]
    value = _pool(e, "AVERAGE_POOL_2D", value, (vertical, Axis(columns, columns, 1, 1, 0)), Padding.VALID)
    return _pool(e, "AVERAGE_POOL_2D", value, (Axis(vertical.out, vertical.out, 1, 1, 0), horizontal), Padding.VALID)


@rule(aten.max_pool2d_with_indices.default)
def max_pool(
    e: Emitter, x: Operand, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> tuple[Value, None]:
    value = images(e, x)
    shape = tuple(e.node.meta["val"][0].shape)
    windows = axes(value.shape[2:], shape[-2:], kernel, stride or kernel, padding, dilation)
    return e.view(_max_pool(e, value, windows), shape), None


def _max_pool(e: Emitter, value: Value, windows: tuple[Axis, Axis]) -> Value:
    value = padded(e, value, windows, float(np.finfo(np.float32).min))
    if all(axis.dilation == 1 for axis in windows):
        return _pool(e, "MAX_POOL_2D", value, windows, Padding.VALID)
    # TFLite has no dilated windows: the largest of the elements at each place of the window, rows first.
    for dim, axis in zip((2, 3), windows, strict=True):
        reach = (axis.out - 1) * axis.stride + 1
        starts = [place * axis.dilation for place in range(axis.kernel)]
        parts = [narrow(e, value, dim, start, start + reach, axis.stride) for start in starts]
        value = functools.reduce(functools.partial(arithmetic_like, e, "MAXIMUM"), parts)
    return value


def _volumes(e: Emitter, x: Operand) -> tuple[Value, int, int]:
    """Volumes [..., D, H, W] as images [1, ..., H, W] with all before the rows as channels, how many, and D."""
    value = e.value(x)
    *outer, depth, height, width = value.shape
    count = math.prod(outer)
    return e.preferred(e.view(value, (1, count * depth, height, width))), count, depth


def _along_depth(e: Emitter, images: Value, count: int, depth: int) -> Value:
    """The images as [1, count, depth, H W], whose rows are the depth."""
    return e.preferred(e.view(images, (1, count, depth, math.prod(images.shape[2:]))))


def _three(values: Ints) -> list[int]:
    return list(values) * 3 if len(values) == 1 else list(values)


@rule(aten.max_pool3d_with_indices.default)
def max_pool_of_volumes(
    e: Emitter, x: Operand, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> tuple[Value, None]:
    """Separable: the largest of each image's window, then along the depth."""
    shape = tuple(e.node.meta["val"][0].shape)
    sides = list(map(_three, (kernel, stride or kernel, padding, dilation)))
    value, count, depth = _volumes(e, x)
    value = _max_pool(e, value, axes(value.shape[2:], shape[-2:], *(side[1:] for side in sides)))
    columns = _along_depth(e, value, count, depth)
    deep = Axis(depth, shape[-3], *(side[0] for side in sides))
    return e.view(_max_pool(e, columns, (deep, _whole(columns.shape[3]))), shape), None


def _whole(size: int) -> Axis:
    """A dimension that a window leaves as it is."""
    return Axis(size, size, 1, 1, 0)


@rule(aten.avg_pool3d.default)
def avg_pool_of_volumes(
    e: Emitter,
    x: Operand,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Value:
    """Separable, as is the number of elements that a mean counts."""
    shape = e.output_shape
    sides = list(map(_three, (kernel, stride or kernel, padding)))
    value, count, depth = _volumes(e, x)
    counted = count_include_pad or divisor is not None
    value = _mean_of(e, value, axes(value.shape[2:], shape[-2:], *(side[1:] for side in sides)), counted, divisor)
    columns = _along_depth(e, value, count, depth)
    deep = Axis(depth, shape[-3], *(side[0] for side in sides))
    result = e.view(_mean_of(e, columns, (deep, _whole(columns.shape[3])), counted, divisor), shape)
    return result if divisor is None else arithmetic(e, "MUL", result, math.prod(sides[0]) / divisor)


@rule(aten.avg_pool2d.default)
def avg_pool(
    e: Emitter,
    x: Operand,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor: int | None,
) -> Value:
    value = images(e, x)
    windows = axes(value.shape[2:], e.output_shape[-2:], kernel, stride or kernel, padding)
    area = windows[0].kernel * windows[1].kernel
    # What ceil_mode adds behind the data counts in neither.
    counts_alike = not count_include_pad or all(axis.padding == 0 for axis in windows)
    if divisor is None and counts_alike and all(map(is_same, windows)) and area <= LONGEST_SUM:
        return e.view(_pool(e, "AVERAGE_POOL_2D", value, windows, Padding.SAME), e.output_shape)
    pooled = e.view(_mean_of(e, value, windows, count_include_pad, divisor), e.output_shape)
    return pooled if divisor in (None, area) else arithmetic(e, "MUL", pooled, area / divisor)


def _mean_of(
    e: Emitter, value: Value, windows: tuple[Axis, Axis], count_include_pad: bool, divisor: int | None
) -> Value:
    """The mean of each window. With a divisor it is that of the whole window, padding and all."""
    pooled = _mean_pool(e, padded(e, value, windows, 0.0), windows)
    if divisor is not None:
        return pooled
    for dim, axis in zip((2, 3), windows, strict=True):
        factors = axis.kernel / _counts(axis, count_include_pad)
        if (factors != 1).any():
            shape = [1, 1, 1, 1]
            shape[dim] = axis.out
            pooled = arithmetic_like(e, "MUL", pooled, torch.from_numpy(factors.astype(np.float32)).reshape(shape))
    return pooled


def _counts(axis: Axis, include_padding: bool) -> Array:
    """How many elements torch counts in the window at each output position."""
    margin = axis.padding if include_padding else 0
    starts = np.array([axis.start(position) for position in range(axis.out)])
    ends = np.minimum(starts + axis.kernel, axis.size + margin)
    counts: Array = ends - np.maximum(starts, -margin)
    return counts


@rule(aten._adaptive_avg_pool2d.default, aten.adaptive_avg_pool2d.default)
def adaptive_avg_pool(e: Emitter, x: Operand, size: Ints) -> Value:
    """Equal windows are an average pool; others are separable: the mean of each range of rows, then of columns."""
    value = images(e, x)
    bins = e.output_shape[-2:]
    if bins == (1, 1):
        return e.view(mean_over(e, value, (2, 3), True), e.output_shape)
    if all(n % b == 0 for n, b in zip(value.shape[2:], bins, strict=True)):
        kernel = [n // b for n, b in zip(value.shape[2:], bins, strict=True)]
        return e.view(_mean_pool(e, value, axes(value.shape[2:], bins, kernel, kernel, (0, 0))), e.output_shape)
    for dim, count in zip((2, 3), bins, strict=True):
        value = _by_ranges(e, value, dim, count, mean_over)
    return e.view(value, e.output_shape)


def _by_ranges(e: Emitter, value: Value, dim: int, count: int, reduction: Callable[..., Value]) -> Value:
    """A reduction of each of the ranges that torch's adaptive pooling divides a dimension into."""
    n = value.shape[dim]
    if count == n:
        return value
    ranges = [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]
    return e.concat([reduction(e, narrow(e, value, dim, a, b), (dim,), True) for a, b in ranges], dim)


def _largest_over(e: Emitter, value: Value, dims: Ints, keepdim: bool) -> Value:
    return reduce(e, "REDUCE_MAX", value, dims, keepdim)


@rule(aten._adaptive_avg_pool3d.default, aten.adaptive_avg_pool3d.default)
def adaptive_avg_pool_of_volumes(e: Emitter, x: Operand, size: Ints) -> Value:
    value = e.value(x)
    for dim, count in enumerate(e.output_shape[-3:], len(value.shape) - 3):
        value = _by_ranges(e, value, dim, count, mean_over)
    return value


@rule(aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def adaptive_max_pool(e: Emitter, x: Operand, size: Ints) -> tuple[Value, None]:
    value = e.value(x)
    for dim, count in enumerate(e.node.meta["val"][0].shape[-len(size) :], len(value.shape) - len(size)):
        value = _by_ranges(e, value, dim, count, _largest_over)
    return value, None
