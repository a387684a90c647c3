"""Rounding to whole numbers, and division that rounds."""

from __future__ import annotations

import torch

from binmat.backends.lce.emitter import Emitter, rule, rule_by_kind
from binmat.backends.lce.rules.elementwise import (
    Operand,
    absolute,
    arithmetic,
    broadcast,
    unary,
)
from binmat.backends.lce.values import Bits, Value
from binmat.errors import ExportError

aten = torch.ops.aten


def _rounded(e: Emitter, kind: str, x: Operand) -> Value:
    value = e.value(x)
    return unary(e, kind, value) if value.dtype.is_floating_point else value


rule_by_kind(_rounded, {aten.ceil.default: "CEIL", aten.floor.default: "FLOOR", aten.round.default: "ROUND"})


@rule(aten.round.decimals)
def round_decimals(e: Emitter, x: Operand, decimals: int) -> Value:
    scaled = arithmetic(e, "MUL" if decimals > 0 else "DIV", x, 10.0 ** abs(decimals))
    return arithmetic(e, "DIV" if decimals > 0 else "MUL", unary(e, "ROUND", scaled), 10.0 ** abs(decimals))


@rule(aten.trunc.default)
def trunc(e: Emitter, x: Operand) -> Value:
    """Towards zero: the floor of what is positive, the ceiling of what is negative."""
    value = e.value(x)
    if not value.dtype.is_floating_point:
        return value
    negative = broadcast(e, "LESS", (value, 0), value.dtype, torch.bool)
    choices = (negative, unary(e, "CEIL", value), unary(e, "FLOOR", value))
    return broadcast(e, "SELECT_V2", choices, value.dtype)


@rule(aten.frac.default)
def frac(e: Emitter, x: Operand) -> Value:
    return arithmetic(e, "SUB", x, trunc(e, x))


@rule(aten.remainder.Tensor, aten.remainder.Scalar, aten.remainder.Scalar_Tensor)
def remainder(e: Emitter, x: Operand, divisor: Operand) -> Value:
    """It has the divisor's sign."""
    return arithmetic(e, "FLOOR_MOD", x, divisor)


@rule(aten.fmod.Tensor, aten.fmod.Scalar)
def fmod(e: Emitter, x: Operand, divisor: Operand) -> Value:
    """The remainder of the absolute values, with the sign of x."""
    value = e.cast(e.value(x), e.output_dtype)
    size: Operand = absolute(e, divisor) if isinstance(divisor, Value | Bits) else torch.as_tensor(divisor).abs()
    left = arithmetic(e, "FLOOR_MOD", absolute(e, value), size)
    negative = broadcast(e, "LESS", (value, 0), value.dtype, torch.bool)
    return broadcast(e, "SELECT_V2", (negative, unary(e, "NEG", left), left), value.dtype)


@rule(aten.floor_divide.default, aten.floor_divide.Scalar)
def floor_divide(e: Emitter, x: Operand, divisor: Operand) -> Value:
    """The quotient of what the remainder leaves, as torch has it: 1 // 0.1 is 9, while floor(1 / 0.1) is 10."""
    less = arithmetic(e, "SUB", x, remainder(e, x, divisor))
    if e.output_dtype.is_floating_point:
        return unary(e, "ROUND", arithmetic(e, "DIV", less, divisor))
    return _exact_quotient(e, less, divisor)


def _exact_quotient(e: Emitter, multiple: Value, divisor: Operand) -> Value:
    """The quotient of integers without a remainder. TFLite divides int32."""
    if multiple.dtype == torch.int64:
        raise ExportError("it divides int64, which TFLite does for int32 alone: make them int32")
    return arithmetic(e, "DIV", multiple, divisor)


@rule(aten.div.Tensor_mode, aten.div.Scalar_mode)
def divide(e: Emitter, x: Operand, divisor: Operand, mode: str | None) -> Value:
    if mode == "floor":
        return floor_divide(e, x, divisor)
    if mode is None or e.output_dtype.is_floating_point:
        quotient = arithmetic(e, "DIV", x, divisor)
        return quotient if mode is None else trunc(e, quotient)
    return _exact_quotient(e, arithmetic(e, "SUB", x, fmod(e, x, divisor)), divisor)
