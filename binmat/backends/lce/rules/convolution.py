"""Float convolutions and matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.padding import with_zero_padding
from binmat.backends.lce.rules.elementwise import Ints, Operand, arithmetic
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
    value = e.preferred(x)
    if len(value.shape) != 4:
        rank = len(value.shape) - 2
        raise ExportError(f"it is a {rank}-D convolution and TFLite has the 2-D one: view the data as images")
    kernel = e.value(weight)
    if transposed:
        if groups != 1 or any(d != 1 for d in dilation):
            raise ExportError("it is a transposed convolution with groups or dilation, which TFLite does not have")
        return _transposed(e, value, kernel, bias, stride, padding)
    windows = axes(value.shape[2:], e.output_shape[2:], kernel.shape[2:], stride, padding, dilation)
    value, pad = with_zero_padding(e, value, windows)
    # TFLite's convolutions always take a bias.
    added = e.constant(np.zeros(kernel.shape[0])) if bias is None else e.value(bias).tensor
    return convolve(e, value, kernel, added, windows, pad, groups)


def convolve(
    e: Emitter, value: Value, kernel: Value, bias: int, windows: tuple[Axis, Axis], padding: Padding, groups: int
) -> Value:
    """CONV_2D or DEPTHWISE_CONV_2D with the current node's output shape. kernel: [O, I / groups, kh, kw]."""
    vertical, horizontal = windows
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
        return e.emit("DEPTHWISE_CONV_2D", [value, turned, bias], e.output_shape, **options)
    version = 1 if groups == 1 else GROUPED_VERSION
    return e.emit("CONV_2D", [value, e.preferred(kernel), bias], e.output_shape, version=version, **options)


def _transposed(e: Emitter, value: Value, kernel: Value, bias: Operand | None, stride: Ints, padding: Ints) -> Value:
    """TRANSPOSE_CONV without padding gives torch's result with `padding` more around it, less output_padding."""
    outputs = kernel.shape[1]
    full = [(size - 1) * s + k for size, s, k in zip(value.shape[2:], stride, kernel.shape[2:], strict=True)]
    shape = (value.shape[0], outputs, *full)
    turned = e.preferred(e.permute(kernel, (1, 0, 2, 3)))
    sizes = e.integers([shape[0], *full, outputs])
    spread = e.emit(
        "TRANSPOSE_CONV", [sizes, turned, value], shape, padding=Padding.VALID, stride_h=stride[0], stride_w=stride[1]
    )
    behind = [out - size + p for out, size, p in zip(e.output_shape[2:], full, padding, strict=True)]
    cropped = e.pad(spread, [0, 0, *(-p for p in padding)], [0, 0, *behind])
    if bias is None:
        return cropped
    return arithmetic(e, "ADD", cropped, bias.reshape(-1, 1, 1) if isinstance(bias, Tensor) else bias)


@rule(aten.mm.default)
def product(e: Emitter, x: Operand, matrix: Operand, bias: Operand | None = None) -> Value:
    """x [M, K] @ matrix [K, N] (+ bias [N])."""
    value = e.preferred(x)
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
    return e.emit("BATCH_MATMUL", [e.preferred(x), e.preferred(other)], e.output_shape)
