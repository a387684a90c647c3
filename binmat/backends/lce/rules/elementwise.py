"""Arithmetic, comparisons and the functions of one element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from binmat.backends.lce.emitter import Emitter, rule, rule_by_kind
from binmat.backends.lce.layout import Order, Shape, preferred_order, stored_shape
from binmat.backends.lce.values import DTYPES, Bits, Value
from binmat.errors import ExportError

aten = torch.ops.aten

Number = float | int | bool
Operand = Value | Bits | Tensor | Number
Ints = Sequence[int]

#: Dimensions over which TFLite's operators with two operands repeat one of them.
LARGEST_BROADCAST = 4


def broadcast(
    e: Emitter,
    kind: str,
    operands: Sequence[Operand],
    dtype: torch.dtype | None = None,
    out_dtype: torch.dtype | None = None,
) -> Value:
    """One operator on operands that broadcast as in torch. dtype: what they are converted to; None leaves them."""
    values = [e.value(operand) if isinstance(operand, Value | Bits) else operand for operand in operands]
    shapes = [tuple(v.shape) for v in values if isinstance(v, Value | Tensor)]
    shape = tuple(torch.broadcast_shapes(*shapes))
    order = _common_order([v for v in values if isinstance(v, Value)], len(shape))
    # The condition of a selection stays a boolean.
    dtypes = [None if kind == "SELECT_V2" and index == 0 else dtype for index in range(len(values))]
    inputs = [_aligned(e, value, order, wanted) for value, wanted in zip(values, dtypes, strict=True)]
    result = out_dtype or dtype or next(v.dtype for v in values if isinstance(v, Value))
    stored = stored_shape(shape, order)
    if len(shape) > LARGEST_BROADCAST and any(e.builder.tensors[i].shape != stored for i in inputs):
        inputs, merged = _of_low_rank(e, inputs, stored)
        return e.restored(e.emit(kind, inputs, merged, tuple(range(len(merged))), result), shape, order)
    return e.emit(kind, inputs, shape, order, result)


def _of_low_rank(e: Emitter, inputs: Sequence[int], stored: Shape) -> tuple[list[int], Shape]:
    """Tensors that broadcast to a shape of many dimensions, viewed so that they do it in few; and that shape.

    Neighbouring dimensions that the same tensors repeat along are one. Where that leaves too many, the tensors are
    repeated.
    """
    shapes = [(1,) * (len(stored) - len(shape)) + shape for shape in (e.builder.tensors[i].shape for i in inputs)]
    long = [dim for dim, size in enumerate(stored) if size != 1]
    runs: list[list[int]] = []
    for dim in long:
        if runs and all((shape[dim] == 1) == (shape[runs[-1][-1]] == 1) for shape in shapes):
            runs[-1].append(dim)
        else:
            runs.append([dim])
    merged = [tuple(math.prod(shape[dim] for dim in run) for run in runs) for shape in (*shapes, stored)]
    viewed = [e.stored_tensor(i, shape) for i, shape in zip(inputs, merged[:-1], strict=True)]
    if len(runs) > LARGEST_BROADCAST:
        viewed = [e.stored_tensor(i, merged[-1]) for i in viewed]
    return viewed, merged[-1]


def _common_order(values: Sequence[Value], rank: int) -> Order:
    orders = {value.order for value in values if len(value.shape) == rank}
    return orders.pop() if len(orders) == 1 else preferred_order(rank)


def _aligned(e: Emitter, operand: Value | Tensor | Number, order: Order, dtype: torch.dtype | None) -> int:
    rank = len(order)
    if isinstance(operand, Value):
        value = operand if dtype is None else e.cast(operand, dtype)
        if len(value.shape) < rank:
            value = e.view(value, (1,) * (rank - len(value.shape)) + value.shape)
        return e.ordered(value, order).tensor
    if isinstance(operand, Tensor):
        constant = operand if dtype is None else operand.to(dtype)
        return e.tensor_constant(constant.reshape((1,) * (rank - constant.dim()) + tuple(constant.shape)), order)
    return e.constant(operand, DTYPES[dtype or torch.float32])


#: What arithmetic does on booleans.
_ON_BOOLEANS = {"ADD": "LOGICAL_OR", "MUL": "LOGICAL_AND", "MAXIMUM": "LOGICAL_OR", "MINIMUM": "LOGICAL_AND"}


def arithmetic(e: Emitter, kind: str, *operands: Operand) -> Value:
    if e.output_dtype == torch.bool:
        return broadcast(e, _ON_BOOLEANS[kind], operands, torch.bool)
    if e.output_dtype in (torch.uint8, torch.int8):
        raise ExportError(f"it computes in {e.output_dtype}, which TFLite takes for quantized numbers: use float()")
    return broadcast(e, kind, operands, e.output_dtype)


def arithmetic_like(e: Emitter, kind: str, value: Value, other: Operand) -> Value:
    """An operator on a value and what broadcasts to its shape, for the inner steps of a rule."""
    return broadcast(e, kind, (value, other), value.dtype)


def _scaled(e: Emitter, operand: Operand, alpha: Number) -> Operand:
    if alpha == 1:
        return operand
    if isinstance(operand, Value | Bits):
        return arithmetic(e, "MUL", operand, alpha)
    return operand * alpha


@rule(aten.add.Tensor, aten.add.Scalar)
def add(e: Emitter, x: Operand, other: Operand, alpha: Number) -> Value:
    total = arithmetic(e, "ADD", x, _scaled(e, other, alpha))
    if any(isinstance(o, Value) and o.tensor in e.without_negative_zero for o in (x, other)):
        e.without_negative_zero.add(total.tensor)
    return total


@rule(aten.sub.Tensor, aten.sub.Scalar)
def sub(e: Emitter, x: Operand, other: Operand, alpha: Number) -> Value:
    return arithmetic(e, "SUB", x, _scaled(e, other, alpha))


@rule(aten.rsub.Tensor, aten.rsub.Scalar)
def rsub(e: Emitter, x: Operand, other: Operand, alpha: Number) -> Value:
    return arithmetic(e, "SUB", other, _scaled(e, x, alpha))


rule_by_kind(
    arithmetic,
    {
        aten.mul.Tensor: "MUL",
        aten.mul.Scalar: "MUL",
        aten.div.Tensor: "DIV",
        aten.div.Scalar: "DIV",
        aten.minimum.default: "MINIMUM",
        aten.maximum.default: "MAXIMUM",
    },
)


@rule(aten.addcmul.default)
def addcmul(e: Emitter, x: Operand, first: Operand, second: Operand, value: Number) -> Value:
    return arithmetic(e, "ADD", x, _scaled(e, arithmetic(e, "MUL", first, second), value))


@rule(aten.lerp.Scalar, aten.lerp.Tensor)
def lerp(e: Emitter, start: Operand, end: Operand, weight: Operand) -> Value:
    return arithmetic(e, "ADD", start, arithmetic(e, "MUL", weight, arithmetic(e, "SUB", end, start)))


@rule(aten.pow.Tensor_Scalar)
def power(e: Emitter, x: Operand, exponent: Number) -> Value:
    if not e.output_dtype.is_floating_point:
        return _integer_power(e, e.cast(e.value(x), e.output_dtype), int(exponent))
    value = e.cast(e.value(x), torch.float32)
    if exponent == 1:
        return value
    kinds = {2: "SQUARE", 0.5: "SQRT", -0.5: "RSQRT"}
    return unary(e, kinds[exponent], value) if exponent in kinds else arithmetic(e, "POW", value, exponent)


def _integer_power(e: Emitter, value: Value, exponent: int) -> Value:
    """By repeated squaring: TFLite's own POW has no int64."""
    if exponent == 0:
        return arithmetic_like(e, "ADD", arithmetic_like(e, "MUL", value, 0), 1)
    if exponent == 1:
        return value
    root = _integer_power(e, value, exponent // 2)
    square = arithmetic_like(e, "MUL", root, root)
    return arithmetic_like(e, "MUL", square, value) if exponent % 2 else square


@rule(aten.pow.Scalar, aten.pow.Tensor_Tensor)
def power_of_tensors(e: Emitter, base: Operand, exponent: Operand) -> Value:
    if not e.output_dtype.is_floating_point:
        raise ExportError("it raises integers to computed powers, which TFLite does not for int64: use float32")
    return arithmetic(e, "POW", base, exponent)


def _compare(e: Emitter, kind: str, x: Operand, other: Operand) -> Value:
    return broadcast(e, kind, (x, other), _promoted(x, other), torch.bool)


def _promoted(*operands: Operand) -> torch.dtype:
    """The type that torch compares in."""
    samples: list[Any] = [
        torch.empty(1, dtype=o.dtype) if isinstance(o, Value | Tensor) else torch.empty(1) if isinstance(o, Bits) else o
        for o in operands
    ]
    dtype = torch.result_type(*samples)
    return torch.int32 if dtype in (torch.bool, torch.uint8, torch.int8) else dtype


for _packet, _kind in {
    aten.ge: "GREATER_EQUAL",
    aten.gt: "GREATER",
    aten.le: "LESS_EQUAL",
    aten.lt: "LESS",
    aten.eq: "EQUAL",
    aten.ne: "NOT_EQUAL",
}.items():
    rule_by_kind(_compare, {_packet.Tensor: _kind, _packet.Scalar: _kind})


def truth(e: Emitter, operand: Operand) -> Value:
    """Whether each element differs from 0."""
    value = e.value(operand)
    return value if value.dtype == torch.bool else broadcast(e, "NOT_EQUAL", (value, 0), value.dtype, torch.bool)


def _truths(e: Emitter, kind: str, *operands: Operand) -> Value:
    return broadcast(e, kind, [truth(e, operand) for operand in operands], torch.bool)


rule_by_kind(
    _truths,
    {
        aten.logical_and.default: "LOGICAL_AND",
        aten.logical_or.default: "LOGICAL_OR",
        aten.logical_not.default: "LOGICAL_NOT",
        aten.logical_xor.default: "NOT_EQUAL",
    },
)


@rule(aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar)
def bitwise_xor(e: Emitter, x: Operand, other: Operand) -> Value:
    if e.output_dtype == torch.bool:
        return broadcast(e, "NOT_EQUAL", (x, other), torch.bool)
    if e.output_dtype == torch.int64:
        raise ExportError("it works on the bits of int64, which TFLite has no operator for: make them int32")
    return arithmetic(e, "BITWISE_XOR", x, other)


@rule(aten.bitwise_and.Scalar)
def bitwise_and(e: Emitter, x: Operand, mask: int) -> Value:
    """The lowest bits of an integer are a remainder."""
    if e.output_dtype == torch.bool:
        return _logical(e, "LOGICAL_AND", x, mask)
    if mask < 0 or mask & (mask + 1):
        raise ExportError("it keeps other bits of integers than the lowest ones, which TFLite cannot: use booleans")
    value = e.value(x)
    wide = e.cast(value, torch.int64 if value.dtype == torch.int64 else torch.int32)
    return e.cast(arithmetic_like(e, "FLOOR_MOD", wide, mask + 1), e.output_dtype)


def _logical(e: Emitter, kind: str, *operands: Operand) -> Value:
    if e.output_dtype != torch.bool or any(isinstance(o, Value | Tensor) and o.dtype != torch.bool for o in operands):
        raise ExportError("it works on the bits of integers, which the file has no operator for: use booleans")
    return broadcast(e, kind, operands, torch.bool)


rule_by_kind(
    _logical,
    {
        aten.bitwise_and.Tensor: "LOGICAL_AND",
        aten.bitwise_or.Tensor: "LOGICAL_OR",
        aten.bitwise_not.default: "LOGICAL_NOT",
    },
)


@rule(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther, aten.where.Scalar)
def where(e: Emitter, condition: Operand, x: Operand, other: Operand) -> Value:
    return broadcast(e, "SELECT_V2", (condition, x, other), e.output_dtype)


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(e: Emitter, x: Operand, mask: Operand, value: Operand) -> Value:
    return broadcast(e, "SELECT_V2", (mask, value, x), e.output_dtype)


@rule(aten._to_copy.default, torch.ops.prims.convert_element_type.default)
def to_copy(e: Emitter, x: Operand, *_: object) -> Value:
    return truth(e, x) if e.output_dtype == torch.bool else e.cast(e.value(x), e.output_dtype)


def unary(e: Emitter, kind: str, operand: Operand, **options: Any) -> Value:
    value = e.value(operand)
    return e.emit(kind, [value], value.shape, value.order, value.dtype, **options)


def function(e: Emitter, kind: str, x: Operand) -> Value:
    """A function of one element; integers are converted first where torch's result is float."""
    return unary(e, kind, e.cast(e.value(x), e.output_dtype))


rule_by_kind(
    function,
    {
        aten.cos.default: "COS",
        aten.exp.default: "EXP",
        aten.hardswish.default: "HARD_SWISH",
        aten.log.default: "LOG",
        aten.neg.default: "NEG",
        aten.rsqrt.default: "RSQRT",
        aten.sin.default: "SIN",
        aten.sigmoid.default: "LOGISTIC",
        aten.sqrt.default: "SQRT",
        aten.square.default: "SQUARE",
        aten.tanh.default: "TANH",
    },
)


@rule(aten.abs.default)
def absolute(e: Emitter, x: Operand) -> Value:
    value = e.value(x)
    if value.dtype.is_floating_point:
        return unary(e, "ABS", value)
    return arithmetic_like(e, "MAXIMUM", value, unary(e, "NEG", value))


@rule(aten.reciprocal.default)
def reciprocal(e: Emitter, x: Operand) -> Value:
    return arithmetic(e, "DIV", 1.0, x)


@rule(aten.sign.default)
def sign(e: Emitter, x: Operand) -> Value:
    """TFLite's own SIGN is not in every runtime: (x > 0) - (x < 0)."""
    value = e.value(x)
    above, below = (broadcast(e, kind, (value, 0), value.dtype, torch.bool) for kind in ("GREATER", "LESS"))
    return arithmetic(e, "SUB", e.cast(above, value.dtype), e.cast(below, value.dtype))
