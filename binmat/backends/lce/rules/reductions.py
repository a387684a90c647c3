"""Sums, means and the normalisations made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binmat.backends.lce.emitter import Emitter, rule, rule_by_kind
from binmat.backends.lce.rules.elementwise import Ints, Number, Operand, arithmetic_like, truth, unary
from binmat.backends.lce.values import Value
from binmat.errors import ExportError

aten = torch.ops.aten

#: TFLite adds the elements of a mean one by one in float32, and the error grows with their number.
LONGEST_SUM = 64


def reduce(e: Emitter, kind: str, value: Value, dims: Ints, keepdim: bool) -> Value:
    dims = sorted({dim % len(value.shape) for dim in dims}) if value.shape else []
    if not dims:
        return value
    axes = e.integers([value.order.index(dim) for dim in dims])
    if keepdim:
        shape = [1 if dim in dims else size for dim, size in enumerate(value.shape)]
        return e.emit(kind, [value, axes], shape, value.order, value.dtype, keep_dims=True)
    kept = [dim for dim in range(len(value.shape)) if dim not in dims]
    order = tuple(kept.index(dim) for dim in value.order if dim in kept)
    return e.emit(kind, [value, axes], [value.shape[dim] for dim in kept], order, value.dtype, keep_dims=False)


def mean_over(e: Emitter, value: Value, dims: Ints, keepdim: bool) -> Value:
    """The mean; over many elements it is taken one dimension at a time, so that each sum stays short."""
    dims = [dim % len(value.shape) for dim in dims]
    if len(dims) > 1 and math.prod(value.shape[dim] for dim in dims) > LONGEST_SUM:
        for dim in dims[:0:-1]:
            value = reduce(e, "MEAN", value, [dim], True)
    return reduce(e, "MEAN", value, dims, keepdim)


def _all_dims(value: Value, dims: Ints | None) -> Ints:
    return dims or range(len(value.shape))


@rule(aten.mean.dim)
def mean(e: Emitter, x: Operand, dims: Ints | None, keepdim: bool, dtype: object) -> Value:
    value = e.cast(e.value(x), e.output_dtype)
    return mean_over(e, value, _all_dims(value, dims), keepdim)


@rule(aten.mean.default)
def mean_of_all(e: Emitter, x: Operand, dtype: object) -> Value:
    return mean(e, x, None, False, dtype)


def _reduce_over(e: Emitter, kind: str, x: Operand, dims: Ints | None, keepdim: bool, dtype: object = None) -> Value:
    value = e.cast(e.value(x), e.output_dtype)
    return reduce(e, kind, value, _all_dims(value, dims), keepdim)


rule_by_kind(
    _reduce_over,
    {aten.sum.dim_IntList: "SUM", aten.amax.default: "REDUCE_MAX", aten.amin.default: "REDUCE_MIN"},
)


def _reduce_truths(e: Emitter, kind: str, x: Operand, dims: Ints | int | None = None, keepdim: bool = False) -> Value:
    value = truth(e, x)
    chosen = [dims] if isinstance(dims, int) else range(len(value.shape)) if dims is None else dims
    return reduce(e, kind, value, chosen, keepdim)


for _packet, _kind in {aten.any: "REDUCE_ANY", aten.all: "REDUCE_ALL"}.items():
    rule_by_kind(_reduce_truths, {_packet.default: _kind, _packet.dim: _kind, _packet.dims: _kind})


@rule(aten.prod.dim_int)
def prod(e: Emitter, x: Operand, dim: int, keepdim: bool, dtype: object) -> Value:
    return _reduce_over(e, "REDUCE_PROD", x, [dim], keepdim)


@rule(aten.prod.default)
def prod_of_all(e: Emitter, x: Operand, dtype: object) -> Value:
    return _reduce_over(e, "REDUCE_PROD", x, None, False)


@rule(aten.cumsum.default)
def cumsum(e: Emitter, x: Operand, dim: int, dtype: object) -> Value:
    value = e.cast(e.value(x), e.output_dtype)
    if not value.shape:
        return value
    inputs = [value.tensor, e.constant(e.axis(value, dim), np.int32)]
    return e.emit("CUMSUM", inputs, value.shape, value.order, value.dtype)


@rule(aten.sum.default)
def sum_of_all(e: Emitter, x: Operand, dtype: object) -> Value:
    return _reduce_over(e, "SUM", x, None, False)


def _moments(e: Emitter, value: Value, mean: Callable[[Value], Value]) -> tuple[Value, Value, Value]:
    """The mean, the value less its mean, and the mean of that squared. mean: keeps the dimensions."""
    centre = mean(value)
    centred = arithmetic_like(e, "SUB", value, centre)
    return centre, centred, mean(unary(e, "SQUARE", centred))


def _mean_along(e: Emitter, dims: Ints) -> Callable[[Value], Value]:
    return lambda value: mean_over(e, value, dims, True)


@rule(aten.var_mean.correction)
def var_mean(
    e: Emitter, x: Operand, dims: Ints | None, correction: Number | None, keepdim: bool
) -> tuple[Value, Value]:
    value = e.value(x)
    dims = [dim % len(value.shape) for dim in _all_dims(value, dims)]
    count = math.prod(value.shape[dim] for dim in dims)
    centre, _, variance = _moments(e, value, _mean_along(e, dims))
    divisor = count - (1 if correction is None else correction)
    if divisor != count:
        variance = arithmetic_like(e, "MUL", variance, count / divisor)
    if not keepdim:
        shape = [size for dim, size in enumerate(value.shape) if dim not in dims]
        variance, centre = e.view(variance, shape), e.view(centre, shape)
    return variance, centre


@rule(aten.var.correction)
def var(e: Emitter, *arguments: Any) -> Value:
    return var_mean(e, *arguments)[0]


@rule(aten.std.correction)
def std(e: Emitter, *arguments: Any) -> Value:
    return unary(e, "SQRT", var(e, *arguments))


def _normalised(e: Emitter, value: Value, mean: Callable[[Value], Value], eps: float) -> Value:
    """(value - mean) / sqrt(variance + eps)."""
    _, centred, variance = _moments(e, value, mean)
    return arithmetic_like(e, "MUL", centred, unary(e, "RSQRT", arithmetic_like(e, "ADD", variance, eps)))


def _affine(e: Emitter, value: Value, weight: Tensor | None, bias: Tensor | None, shape: Ints) -> Value:
    for kind, parameter in (("MUL", weight), ("ADD", bias)):
        if parameter is not None:
            if not isinstance(parameter, Tensor):
                raise ExportError("its weight or bias is computed by the network: they must be constants")
            value = arithmetic_like(e, kind, value, parameter.reshape(shape))
    return value


@rule(aten.native_group_norm.default)
def group_norm(
    e: Emitter, x: Operand, weight: Tensor | None, bias: Tensor | None, n: int, c: int, _: int, groups: int, eps: float
) -> tuple[Value, None, None]:
    """Means per channel, then per group of channels: the image keeps its layout."""
    value = e.value(x)
    dims = range(2, len(value.shape))

    def group_mean(image: Value) -> Value:
        per_channel = mean_over(e, image, dims, True)
        if groups == c:
            return per_channel
        members = e.view(per_channel, (n, groups, c // groups))
        spread = e.tile(mean_over(e, members, (2,), True), (1, 1, c // groups))
        return e.view(spread, per_channel.shape)

    return _affine(e, _normalised(e, value, group_mean, eps), weight, bias, (-1, *[1] * len(dims))), None, None


@rule(aten.native_layer_norm.default)
def layer_norm(
    e: Emitter, x: Operand, shape: Ints, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Value, None, None]:
    value = e.value(x)
    dims = range(len(value.shape) - len(shape), len(value.shape))
    return _affine(e, _normalised(e, value, _mean_along(e, dims), eps), weight, bias, shape), None, None


@rule(
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_no_training.default,
    aten._native_batch_norm_legit.no_stats,
)
def batch_norm(
    e: Emitter, x: Operand, weight: Tensor | None, bias: Tensor | None, *rest: object
) -> tuple[Value, None, None]:
    """Batch norm that could not be folded, and instance norm, which torch writes as a batch norm in training mode."""
    statistics = [item for item in rest if isinstance(item, Tensor)]
    flags = [item for item in rest if isinstance(item, bool)]
    eps = rest[-1]
    assert isinstance(eps, float)
    value = e.value(x)
    shape = (-1, *[1] * (len(value.shape) - 2))
    if any(flags):
        dims = [dim for dim in range(len(value.shape)) if dim != 1]
        return _affine(e, _normalised(e, value, _mean_along(e, dims), eps), weight, bias, shape), None, None
    if len(statistics) != 2:
        raise ExportError("its running statistics are not constants: put the network in eval mode")
    centre, variance = statistics
    scale = (variance.double() + eps).rsqrt() * (1 if weight is None else weight.double())
    shift = (0 if bias is None else bias.double()) - centre.double() * scale
    return _affine(e, value, scale.float(), shift.float(), shape), None, None
