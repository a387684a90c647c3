"""Sums, means and the normalisations made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.rules.elementwise import Number, Operand, arithmetic_like, unary
from binmat.backends.lce.values import Value
from binmat.errors import ExportError

aten = torch.ops.aten

#: TFLite adds the elements of a mean one by one in float32, and the error grows with their number.
LONGEST_SUM = 64


def _reduce(e: Emitter, kind: str, value: Value, dims: Sequence[int], keepdim: bool) -> Value:
    dims = sorted({dim % len(value.shape) for dim in dims})
    axes = e.integers([value.order.index(dim) for dim in dims])
    if keepdim:
        shape = [1 if dim in dims else size for dim, size in enumerate(value.shape)]
        return e.emit(kind, [value, axes], shape, value.order, value.dtype, keep_dims=True)
    kept = [dim for dim in range(len(value.shape)) if dim not in dims]
    order = tuple(kept.index(dim) for dim in value.order if dim in kept)
    return e.emit(kind, [value, axes], [value.shape[dim] for dim in kept], order, value.dtype, keep_dims=False)


def mean_over(e: Emitter, value: Value, dims: Sequence[int], keepdim: bool) -> Value:
    """The mean. Long ones are taken one dimension at a time: the mean of equally many means, with shorter sums."""
    dims = [dim % len(value.shape) for dim in dims]
    if len(dims) > 1 and math.prod(value.shape[dim] for dim in dims) > LONGEST_SUM:
        for dim in dims[:0:-1]:
            value = _reduce(e, "MEAN", value, [dim], True)
    return _reduce(e, "MEAN", value, dims, keepdim)


def _all_dims(value: Value, dims: Sequence[int] | None) -> Sequence[int]:
    return list(dims) if dims else range(len(value.shape))


@rule(aten.mean.dim)
def mean(e: Emitter, x: Operand, dims: Sequence[int] | None, keepdim: bool, dtype: object) -> Value:
    value = e.cast(e.value(x), e.output_dtype)
    return mean_over(e, value, _all_dims(value, dims), keepdim)


@rule(aten.mean.default)
def mean_of_all(e: Emitter, x: Operand, dtype: object) -> Value:
    return mean(e, x, None, False, dtype)


@rule(aten.sum.dim_IntList)
def sum_(e: Emitter, x: Operand, dims: Sequence[int] | None, keepdim: bool, dtype: object) -> Value:
    value = e.cast(e.value(x), e.output_dtype)
    return _reduce(e, "SUM", value, _all_dims(value, dims), keepdim)


@rule(aten.sum.default)
def sum_of_all(e: Emitter, x: Operand, dtype: object) -> Value:
    return sum_(e, x, None, False, dtype)


@rule(aten.amax.default)
def amax(e: Emitter, x: Operand, dims: Sequence[int], keepdim: bool) -> Value:
    value = e.value(x)
    return _reduce(e, "REDUCE_MAX", value, _all_dims(value, dims), keepdim)


@rule(aten.amin.default)
def amin(e: Emitter, x: Operand, dims: Sequence[int], keepdim: bool) -> Value:
    value = e.value(x)
    return _reduce(e, "REDUCE_MIN", value, _all_dims(value, dims), keepdim)


def _moments(e: Emitter, value: Value, dims: Sequence[int]) -> tuple[Value, Value, Value]:
    """The mean, the value less its mean, and the mean of that squared; dimensions kept."""
    centre = mean_over(e, value, dims, True)
    centred = arithmetic_like(e, "SUB", value, centre)
    return centre, centred, mean_over(e, unary(e, "SQUARE", centred), dims, True)


def _variance(
    e: Emitter, x: Operand, dims: Sequence[int] | None, correction: Number | None, keepdim: bool
) -> tuple[Value, Value]:
    value = e.value(x)
    dims = [dim % len(value.shape) for dim in _all_dims(value, dims)]
    count = math.prod(value.shape[dim] for dim in dims)
    centre, _, variance = _moments(e, value, dims)
    divisor = count - (1 if correction is None else correction)
    if divisor != count:
        variance = arithmetic_like(e, "MUL", variance, count / divisor)
    if not keepdim:
        shape = [size for dim, size in enumerate(value.shape) if dim not in dims]
        variance, centre = e.view(variance, shape), e.view(centre, shape)
    return variance, centre


@rule(aten.var.correction)
def var(e: Emitter, x: Operand, dims: Sequence[int] | None, correction: Number | None, keepdim: bool) -> Value:
    return _variance(e, x, dims, correction, keepdim)[0]


@rule(aten.var_mean.correction)
def var_mean(
    e: Emitter, x: Operand, dims: Sequence[int] | None, correction: Number | None, keepdim: bool
) -> tuple[Value, Value]:
    return _variance(e, x, dims, correction, keepdim)


@rule(aten.std.correction)
def std(e: Emitter, x: Operand, dims: Sequence[int] | None, correction: Number | None, keepdim: bool) -> Value:
    return unary(e, "SQRT", _variance(e, x, dims, correction, keepdim)[0])


def _normalised(e: Emitter, value: Value, dims: Sequence[int], eps: float) -> Value:
    """(value - mean) / sqrt(variance + eps)."""
    _, centred, variance = _moments(e, value, dims)
    return arithmetic_like(e, "MUL", centred, unary(e, "RSQRT", arithmetic_like(e, "ADD", variance, eps)))


def _affine(e: Emitter, value: Value, weight: Tensor | None, bias: Tensor | None, shape: Sequence[int]) -> Value:
    for kind, parameter in (("MUL", weight), ("ADD", bias)):
        if parameter is not None:
            if not isinstance(parameter, Tensor):
                raise ExportError("its weight or bias is computed by the network: they must be constants")
            value = arithmetic_like(e, kind, value, parameter.reshape(shape))
    return value


@rule(aten.native_group_norm.default)
def group_norm(
    e: Emitter,
    x: Operand,
    weight: Tensor | None,
    bias: Tensor | None,
    n: int,
    c: int,
    hxw: int,
    groups: int,
    eps: float,
) -> tuple[Value, None, None]:
    """Means per channel, then per group of channels: the image itself stays as it lies."""
    value = e.value(x)
    dims = range(2, len(value.shape))

    def group_mean(per_channel: Value) -> Value:
        if groups == c:
            return per_channel
        members = e.view(per_channel, (n, groups, c // groups))
        spread = e.tile(mean_over(e, members, (2,), True), (1, 1, c // groups))
        return e.view(spread, per_channel.shape)

    centred = arithmetic_like(e, "SUB", value, group_mean(mean_over(e, value, dims, True)))
    variance = group_mean(mean_over(e, unary(e, "SQUARE", centred), dims, True))
    scaled = arithmetic_like(e, "MUL", centred, unary(e, "RSQRT", arithmetic_like(e, "ADD", variance, eps)))
    return _affine(e, scaled, weight, bias, (-1, *[1] * len(dims))), None, None


@rule(aten.native_layer_norm.default)
def layer_norm(
    e: Emitter, x: Operand, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Value, None, None]:
    value = e.value(x)
    dims = range(len(value.shape) - len(shape), len(value.shape))
    return _affine(e, _normalised(e, value, dims, eps), weight, bias, shape), None, None


@rule(
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit.default,
    aten._native_batch_norm_legit_no_training.default,
    aten._native_batch_norm_legit.no_stats,
)
def batch_norm(
    e: Emitter, x: Operand, weight: Tensor | None, bias: Tensor | None, *rest: object
) -> tuple[Value, None, None]:
    """Batch norm that could not be folded, and instance norm, which torch writes as one in training mode."""
    statistics = [item for item in rest if isinstance(item, Tensor)]
    flags = [item for item in rest if isinstance(item, bool)]
    eps = rest[-1]
    assert isinstance(eps, float)
    value = e.value(x)
    shape = (-1, *[1] * (len(value.shape) - 2))
    if any(flags):
        dims = [dim for dim in range(len(value.shape)) if dim != 1]
        return _affine(e, _normalised(e, value, dims, eps), weight, bias, shape), None, None
    if len(statistics) != 2:
        raise ExportError("its running statistics are not constants: put the network in eval mode")
    centre, variance = statistics
    scale = (variance.double() + eps).rsqrt() * (1 if weight is None else weight.double())
    shift = (0 if bias is None else bias.double()) - centre.double() * scale
    return _affine(e, value, scale.float(), shift.float(), shape), None, None
