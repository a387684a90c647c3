"""Float convolutions and matrix products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.padding import with_zero_padding
from binmat.backends.lce.rules.elementwise import Ints, Operand, arithmetic
from binmat.backends.lce.rules.shapes import narrow
from binmat.backends.lce.tflite.schema import Padding
from binmat.backends.lce.values import Value
from binmat.errors import ExportError
from binmat.transforms.lowering.windows import Axis, axes

aten = torch.ops.aten

#: The first version of CONV_2D that takes fewer filter channels than input channels, that is groups.
GROUPED_VERSION = 6


@rule(aten.convolution.default)
def convolution(
    e: Emitter,
    x: Operand,
    weight: Operand,
    bias: Operand | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
) -> Value:
    value = e.value(x)
    kernel = e.value(weight)
    rank = len(value.shape) - 2
    if rank == 3:
        return _of_volumes(e, value, kernel, bias, stride, padding, dilation, transposed, groups)
    if rank == 1:
        value, kernel = (e.view(part, (*part.shape[:2], 1, part.shape[2])) for part in (value, kernel))
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
    value = e.preferred(value)
    out = (1, *e.output_shape[2:]) if rank == 1 else e.output_shape[2:]
    if not transposed:
        result = _straight(e, value, kernel, bias, out, stride, padding, dilation, groups)
    elif groups != 1 or any(d != 1 for d in dilation):
        result = _by_zeros_between(e, value, kernel, bias, out, stride, padding, dilation, groups)
    else:
        result = _transposed(e, value, kernel, bias, out, stride, padding)
    return e.view(result, e.output_shape)


def _straight(
    e: Emitter,
    value: Value,
    kernel: Value,
    bias: Operand | None,
    out: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> Value:
    windows = axes(value.shape[2:], out, kernel.shape[2:], stride, padding, dilation)
    value, pad = with_zero_padding(e, value, windows)
    # TFLite's convolutions always take a bias.
    added = e.constant(np.zeros(kernel.shape[0])) if bias is None else e.value(bias).tensor
    return convolve(e, value, kernel, added, windows, pad, groups)


def convolve(
    e: Emitter, value: Value, kernel: Value, bias: int, windows: tuple[Axis, Axis], padding: Padding, groups: int
) -> Value:
    """CONV_2D or DEPTHWISE_CONV_2D. kernel: [O, I / groups, kh, kw]."""
    vertical, horizontal = windows
    shape = (value.shape[0], kernel.shape[0], vertical.out, horizontal.out)
    options: dict[str, Any] = {
        "padding": padding,
        "stride_h": vertical.stride,
        "stride_w": horizontal.stride,
        "dilation_h": vertical.dilation,
        "dilation_w": horizontal.dilation,
    }
    channels = value.shape[1]
    if groups == channels and groups > 1:
        turned = e.preferred(e.permute(kernel, (1, 0, 2, 3)))
        options["depth_multiplier"] = kernel.shape[0] // channels
        return e.emit("DEPTHWISE_CONV_2D", [value, turned, bias], shape, **options)
    version = 1 if groups == 1 else GROUPED_VERSION
    return e.emit("CONV_2D", [value, e.preferred(kernel), bias], shape, version=version, **options)


def _by_zeros_between(
    e: Emitter,
    value: Value,
    kernel: Value,
    bias: Operand | None,
    out: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> Value:
    """A transposed convolution that TFLite lacks: the kernel turned, on the data with zeros between.

    Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", section 4.
    """
    inputs, outputs = kernel.shape[0] // groups, kernel.shape[1]
    parts = e.view(kernel, (groups, inputs, outputs, *kernel.shape[2:]))
    turned = e.view(e.permute(parts, (0, 2, 1, 3, 4)), (groups * outputs, inputs, *kernel.shape[2:]))
    axes_turned = e.integers([turned.order.index(2)]), e.integers([turned.order.index(3)])
    for dims in axes_turned:
        turned = e.emit("REVERSE_V2", [turned, dims], turned.shape, turned.order)
    for dim, step in zip((2, 3), stride, strict=True):
        value = zeros_between(e, value, dim, step)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel.shape[2:], dilation, strict=True)]
    before = [n - 1 - p for n, p in zip(reach, padding, strict=True)]
    after = [o + n - 1 - size - b for o, n, size, b in zip(out, reach, value.shape[2:], before, strict=True)]
    value = e.pad(value, [0, 0, *before], [0, 0, *after])
    return _straight(e, value, turned, bias, out, (1, 1), (0, 0), dilation, groups)


def zeros_between(e: Emitter, value: Value, dim: int, step: int) -> Value:
    """The value with step - 1 zeros between its elements along a dimension."""
    if step == 1:
        return value
    size = value.shape[dim]
    before, behind = value.shape[: dim + 1], value.shape[dim + 1 :]
    order = value.order
    place = order.index(dim)
    stored = value.stored
    rows = e.stored_view(value, (math.prod(stored[: place + 1]), 1, math.prod(stored[place + 1 :])))
    spread = e.pad(rows, (0, 0, 0), (0, step - 1, 0))
    whole = e.restored(spread, (*before[:-1], size * step, *behind), order)
    return narrow(e, whole, dim, 0, (size - 1) * step + 1)


def _of_volumes(
    e: Emitter,
    value: Value,
    kernel: Value,
    bias: Operand | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    groups: int,
) -> Value:
    """CONV_3D wants channels last; groups are convolutions side by side.

    Its own dilation reads beyond the data (LCE 0.16), so a dilated kernel has zeros between.
    """
    out = e.output_shape[2:]
    for dim, spread in zip((2, 3, 4), dilation, strict=True):
        kernel = zeros_between(e, kernel, dim, spread)
    if transposed:
        for dim, step in zip((2, 3, 4), stride, strict=True):
            value = zeros_between(e, value, dim, step)
        padding = [n - 1 - p for n, p in zip(kernel.shape[2:], padding, strict=True)]
        stride = (1, 1, 1)
        for dim in (2, 3, 4):
            places = e.integers([kernel.order.index(dim)])
            kernel = e.emit("REVERSE_V2", [kernel, places], kernel.shape, kernel.order)
    sizes = zip(out, stride, kernel.shape[2:], value.shape[2:], padding, strict=True)
    after = [(o - 1) * s + k - n - p for o, s, k, n, p in sizes]
    value = e.ordered(e.pad(value, [0, 0, *padding], [0, 0, *after]), (0, 2, 3, 4, 1))
    options: dict[str, Any] = {"padding": Padding.VALID}
    options |= {f"stride_{name}": step for name, step in zip("dhw", stride, strict=True)}
    results = []
    share, rows = value.shape[1] // groups, kernel.shape[0] // groups
    for group in range(groups):
        part = narrow(e, value, 1, group * share, (group + 1) * share)
        weights = narrow(e, kernel, 0, group * rows, (group + 1) * rows)
        weights = weights if transposed else e.permute(weights, (1, 0, 2, 3, 4))
        outputs = weights.shape[1]
        # Stored as [depth, height, width, inputs, outputs].
        weights = e.ordered(weights, (2, 3, 4, 0, 1))
        shape = (value.shape[0], outputs, *out)
        zeros = e.constant(np.zeros(outputs))
        results.append(e.emit("CONV_3D", [part, weights, zeros], shape, (0, 2, 3, 4, 1), **options))
    result = e.concat(results, 1)
    if bias is None:
        return result
    added = bias.reshape(-1, 1, 1, 1) if isinstance(bias, Tensor) else e.view(e.value(bias), (result.shape[1], 1, 1, 1))
    return arithmetic(e, "ADD", result, added)


def _transposed(
    e: Emitter, value: Value, kernel: Value, bias: Operand | None, out: Ints, stride: Ints, padding: Ints
) -> Value:
    """TRANSPOSE_CONV without padding gives torch's result with `padding` more around it, less output_padding."""
    outputs = kernel.shape[1]
    full = [(size - 1) * s + k for size, s, k in zip(value.shape[2:], stride, kernel.shape[2:], strict=True)]
    shape = (value.shape[0], outputs, *full)
    turned = e.preferred(e.permute(kernel, (1, 0, 2, 3)))
    sizes = e.integers([shape[0], *full, outputs])
    spread = e.emit(
        "TRANSPOSE_CONV", [sizes, turned, value], shape, padding=Padding.VALID, stride_h=stride[0], stride_w=stride[1]
    )
    behind = [out - size + p for out, size, p in zip(out, full, padding, strict=True)]
    cropped = e.pad(spread, [0, 0, *(-p for p in padding)], [0, 0, *behind])
    if bias is None:
        return cropped
    return arithmetic(e, "ADD", cropped, bias.reshape(-1, 1, 1) if isinstance(bias, Tensor) else bias)


@rule(aten.mm.default)
def product(e: Emitter, x: Operand, matrix: Operand, bias: Operand | None = None) -> Value:
    """x [M, K] @ matrix [K, N] (+ bias [N])."""
    value = e.preferred(x)
    if e.output_dtype != torch.float32:
        raise ExportError("it multiplies matrices of integers, which TFLite does for floats: use float()")
    if isinstance(matrix, Tensor) and (bias is None or isinstance(bias, Tensor)):
        # FULLY_CONNECTED wants the weights as [N, K].
        weights = e.constant(np.ascontiguousarray(matrix.detach().numpy().T))
        added = e.constant(np.zeros(matrix.shape[1]) if bias is None else bias.detach().numpy().reshape(-1))
        return e.emit("FULLY_CONNECTED", [value, weights, added], e.output_shape)
    result = e.emit("BATCH_MATMUL", [value, e.preferred(matrix)], (value.shape[0], e.output_shape[-1]))
    return result if bias is None else arithmetic(e, "ADD", result, bias)


@rule(aten.addmm.default)
def addmm(e: Emitter, bias: Operand, x: Operand, matrix: Operand, beta: float, alpha: float) -> Value:
    if (beta, alpha) != (1, 1):
        scaled = arithmetic(e, "MUL", product(e, x, matrix), alpha)
        return arithmetic(e, "ADD", scaled, arithmetic(e, "MUL", e.value(bias), beta))
    if isinstance(bias, Tensor) and bias.numel() == e.output_shape[-1]:
        return product(e, x, matrix, bias)
    return arithmetic(e, "ADD", product(e, x, matrix), bias)


@rule(aten.bmm.default)
def bmm(e: Emitter, x: Operand, other: Operand) -> Value:
    if e.output_dtype != torch.float32:
        raise ExportError("it multiplies matrices of integers, which TFLite does for floats: use float()")
    return e.emit("BATCH_MATMUL", [e.preferred(x), e.preferred(other)], e.output_shape)
