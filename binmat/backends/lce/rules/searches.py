"""Where the largest and smallest elements are, and the elements in order."""

from __future__ import annotations

import numpy as np
import torch

from binmat.backends.lce.emitter import Emitter, rule, rule_by_kind
from binmat.backends.lce.rules.elementwise import Operand, unary
from binmat.backends.lce.rules.reductions import reduce
from binmat.backends.lce.rules.shapes import narrow
from binmat.backends.lce.tflite.schema import TensorType
from binmat.backends.lce.values import Value
from binmat.errors import ExportError

aten = torch.ops.aten


def _comparable(e: Emitter, x: Operand) -> Value:
    """A value whose elements TFLite's searches take; a single number as a vector."""
    value = e.value(x)
    if value.dtype == torch.int64:
        raise ExportError("it orders int64, which TFLite does for float32 and int32: make them int32")
    if value.dtype == torch.bool:
        value = e.cast(value, torch.int32)
    return value if value.shape else e.view(value, (1,))


def _search(e: Emitter, kind: str, x: Operand, dim: int | None) -> Value:
    """The index of the first largest or smallest element."""
    value = _comparable(e, x)
    if dim is None:
        value, dim = e.view(value, (_count(value),)), 0
    dim %= len(value.shape)
    kept = [d for d in range(len(value.shape)) if d != dim]
    order = tuple(kept.index(d) for d in value.order if d != dim)
    inputs = [value.tensor, e.constant(value.order.index(dim), np.int32)]
    shape = [value.shape[d] for d in kept]
    return e.emit(kind, inputs, shape, order, torch.int64, output_type=TensorType.INT64)


def _count(value: Value) -> int:
    return int(torch.Size(value.shape).numel())


def _argument(e: Emitter, kind: str, x: Operand, dim: int | None, keepdim: bool) -> Value:
    return e.view(_search(e, kind, x, dim), e.output_shape)


rule_by_kind(_argument, {aten.argmax.default: "ARG_MAX", aten.argmin.default: "ARG_MIN"})


def _extreme(e: Emitter, kind: str, x: Operand, dim: int, keepdim: bool) -> tuple[Value, Value]:
    """The largest or smallest element along a dimension, and its index."""
    shape = tuple(e.node.meta["val"][0].shape)
    values = reduce(e, f"REDUCE_{kind}", e.value(x), [dim] if e.value(x).shape else [], keepdim)
    return e.view(values, shape), e.view(_search(e, f"ARG_{kind}", x, dim), shape)


rule_by_kind(_extreme, {aten.max.dim: "MAX", aten.min.dim: "MIN"})


def _extreme_of_all(e: Emitter, kind: str, x: Operand) -> Value:
    value = e.value(x)
    return reduce(e, kind, value, range(len(value.shape)), False)


rule_by_kind(_extreme_of_all, {aten.max.default: "REDUCE_MAX", aten.min.default: "REDUCE_MIN"})


@rule(aten.topk.default)
def topk(e: Emitter, x: Operand, k: int, dim: int, largest: bool, ordered: bool = True) -> tuple[Value, Value]:
    """TFLite's is the largest along the last dimension of the file; of equal elements the first."""
    given = _comparable(e, x)
    dim %= len(given.shape)
    value = given if largest else unary(e, "NEG", given)
    value = e.ordered(value, (*(d for d in value.order if d != dim), dim))
    shape = (*value.shape[:dim], k, *value.shape[dim + 1 :])
    values, indices = (
        e.tensor_value(shape, value.order, dtype) for dtype in (value.dtype, torch.int32)
    )
    e.builder.operator("TOPK_V2", [value.tensor, e.constant(k, np.int32)], [values.tensor, indices.tensor])
    if not largest:
        values = unary(e, "NEG", values)
    wide = e.cast(indices, torch.int64)
    return (values, wide) if e.value(x).shape else (e.view(values, ()), e.view(wide, ()))


@rule(aten.sort.default)
def sort(e: Emitter, x: Operand, dim: int, descending: bool) -> tuple[Value, Value]:
    shape = e.value(x).shape
    return topk(e, x, shape[dim] if shape else 1, dim, descending)


@rule(aten.sort.stable)
def stable_sort(e: Emitter, x: Operand, stable: bool | None, dim: int, descending: bool) -> tuple[Value, Value]:
    return sort(e, x, dim, descending)


@rule(aten.kthvalue.default)
def kth_value(e: Emitter, x: Operand, k: int, dim: int, keepdim: bool) -> tuple[Value, Value]:
    values, indices = topk(e, x, k, dim, False)
    shape = tuple(e.node.meta["val"][0].shape)
    first, second = (e.view(narrow(e, part, dim, k - 1, k), shape) for part in (values, indices))
    return first, second


@rule(aten.median.dim)
def median(e: Emitter, x: Operand, dim: int, keepdim: bool) -> tuple[Value, Value]:
    """Of an even number of elements the lower one of the middle two."""
    return kth_value(e, x, (e.value(x).shape[dim] + 1) // 2, dim, keepdim)


@rule(aten.median.default)
def median_of_all(e: Emitter, x: Operand) -> Value:
    value = e.value(x)
    count = _count(value)
    values, _ = topk(e, e.view(value, (count,)), (count + 1) // 2, 0, False)
    return e.view(narrow(e, values, 0, (count + 1) // 2 - 1, None), ())
