"""Pooling. Padding is explicit, and the mean is corrected where torch counts other elements than TFLite."""

from __future__ import annotations

import numpy as np
import torch

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.padding import is_same, padded
from binmat.backends.lce.rules.elementwise import Ints, Operand, arithmetic
from binmat.backends.lce.rules.reductions import LONGEST_SUM, mean_over
from binmat.backends.lce.rules.shapes import narrow
from binmat.backends.lce.tflite.schema import Array, Padding
from binmat.backends.lce.values import Value
from binmat.errors import ExportError
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
    if any(d != 1 for d in dilation):
        raise ExportError("its windows are dilated, which TFLite's pooling cannot do")
    value = e.preferred(x)
    windows = axes(value.shape[2:], e.node.meta["val"][0].shape[2:], kernel, stride or kernel, padding)
    value = padded(e, value, windows, float(np.finfo(np.float32).min))
    return _pool(e, "MAX_POOL_2D", value, windows, Padding.VALID), None


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
    value = e.preferred(x)
    windows = axes(value.shape[2:], e.output_shape[2:], kernel, stride or kernel, padding)
    area = windows[0].kernel * windows[1].kernel
    # What ceil_mode adds behind the data counts in neither.
    counts_alike = not count_include_pad or all(axis.padding == 0 for axis in windows)
    if divisor is None and counts_alike and all(map(is_same, windows)) and area <= LONGEST_SUM:
        return _pool(e, "AVERAGE_POOL_2D", value, windows, Padding.SAME)
    pooled = _mean_pool(e, padded(e, value, windows, 0.0), windows)
    if divisor is not None:
        return pooled if divisor == area else arithmetic(e, "MUL", pooled, area / divisor)
    for dim, axis in zip((2, 3), windows, strict=True):
        factors = axis.kernel / _counts(axis, count_include_pad)
        if (factors != 1).any():
            shape = [1, 1, 1, 1]
            shape[dim] = axis.out
            pooled = arithmetic(e, "MUL", pooled, torch.from_numpy(factors.astype(np.float32)).reshape(shape))
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
    value = e.preferred(x)
    bins = e.output_shape[2:]
    if bins == (1, 1):
        return mean_over(e, value, (2, 3), True)
    if all(n % b == 0 for n, b in zip(value.shape[2:], bins, strict=True)):
        kernel = [n // b for n, b in zip(value.shape[2:], bins, strict=True)]
        return _mean_pool(e, value, axes(value.shape[2:], bins, kernel, kernel, (0, 0)))
    for dim, count in zip((2, 3), bins, strict=True):
        n = value.shape[dim]
        if count != n:
            ranges = [(i * n // count, -(-(i + 1) * n // count)) for i in range(count)]
            value = e.concat([mean_over(e, narrow(e, value, dim, a, b), (dim,), True) for a, b in ranges], dim)
    return value
