"""Functions of one or two real numbers that TFLite lacks, from those it has."""

from __future__ import annotations

import math

import torch

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.rules.elementwise import Operand, absolute, arithmetic, broadcast, function, unary
from binmat.backends.lce.rules.shapes import expand_to
from binmat.backends.lce.values import Value

aten = torch.ops.aten

def _float(e: Emitter, x: Operand) -> Value:
    return e.cast(e.value(x), torch.float32)


def _where(e: Emitter, kind: str, x: Value, bound: float, then: Operand, other: Operand) -> Value:
    condition = broadcast(e, kind, (x, bound), x.dtype, torch.bool)
    return broadcast(e, "SELECT_V2", (condition, then, other), torch.float32)


@rule(aten.atan2.default)
def atan2(e: Emitter, y: Operand, x: Operand) -> Value:
    """TFLite's takes tensors of one shape."""
    return arithmetic(e, "ATAN2", *(expand_to(e, _float(e, operand), e.output_shape) for operand in (y, x)))


@rule(aten.tan.default)
def tan(e: Emitter, x: Operand) -> Value:
    return arithmetic(e, "DIV", function(e, "SIN", x), function(e, "COS", x))


@rule(aten.atan.default)
def atan(e: Emitter, x: Operand) -> Value:
    return atan2(e, x, torch.ones(()))


def _cosine_of_arcsine(e: Emitter, x: Operand) -> Value:
    """sqrt(1 - x^2), precise where |x| is nearly 1."""
    return unary(e, "SQRT", arithmetic(e, "MUL", arithmetic(e, "SUB", 1.0, x), arithmetic(e, "ADD", x, 1.0)))


@rule(aten.asin.default)
def asin(e: Emitter, x: Operand) -> Value:
    return atan2(e, x, _cosine_of_arcsine(e, x))


@rule(aten.acos.default)
def acos(e: Emitter, x: Operand) -> Value:
    return atan2(e, _cosine_of_arcsine(e, x), x)


@rule(aten.cosh.default)
def cosh(e: Emitter, x: Operand) -> Value:
    up = function(e, "EXP", x)
    return arithmetic(e, "MUL", arithmetic(e, "ADD", up, arithmetic(e, "DIV", 1.0, up)), 0.5)


@rule(aten.sinh.default)
def sinh(e: Emitter, x: Operand) -> Value:
    """(m + m / (m + 1)) / 2 with m = exp(x) - 1, precise near 0."""
    up = expm1(e, x)
    share = arithmetic(e, "DIV", up, arithmetic(e, "ADD", up, 1.0))
    return arithmetic(e, "MUL", arithmetic(e, "ADD", up, share), 0.5)


@rule(aten.exp2.default)
def exp2(e: Emitter, x: Operand) -> Value:
    return arithmetic(e, "POW", 2.0, x)


@rule(aten.log2.default)
def log2(e: Emitter, x: Operand) -> Value:
    return arithmetic(e, "MUL", function(e, "LOG", x), 1 / math.log(2))


@rule(aten.log10.default)
def log10(e: Emitter, x: Operand) -> Value:
    return arithmetic(e, "MUL", function(e, "LOG", x), 1 / math.log(10))


@rule(aten.expm1.default)
def expm1(e: Emitter, x: Operand) -> Value:
    """2 t / (1 - t) with t = tanh(x / 2) near 0, where exp(x) - 1 would cancel."""
    value = _float(e, x)
    t = unary(e, "TANH", arithmetic(e, "MUL", value, 0.5))
    near = arithmetic(e, "DIV", arithmetic(e, "ADD", t, t), arithmetic(e, "SUB", 1.0, t))
    far = arithmetic(e, "SUB", unary(e, "EXP", value), 1.0)
    return _where(e, "LESS", unary(e, "ABS", value), 1.0, near, far)


@rule(aten.log1p.default)
def log1p(e: Emitter, x: Operand) -> Value:
    """x log(u) / (u - 1) with u = 1 + x as it was rounded; x where u is 1.

    Goldberg, "What Every Computer Scientist Should Know About Floating-Point Arithmetic", theorem 4.
    """
    value = _float(e, x)
    u = arithmetic(e, "ADD", value, 1.0)
    scale = arithmetic(e, "DIV", unary(e, "LOG", u), arithmetic(e, "SUB", u, 1.0))
    finite = _where(e, "EQUAL", u, 1.0, value, arithmetic(e, "MUL", value, scale))
    return _where(e, "EQUAL", u, math.inf, value, finite)


#: erf(x) = x (c0 + c1 x^2 + ...), its Taylor series; below 0.5 the next term is less than float32 resolves.
_ERF_SERIES = [2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(7)]


@rule(aten.erf.default)
def erf(e: Emitter, x: Operand) -> Value:
    """From GELU(z) = z (1 + erf(z / sqrt(2))) / 2, and near 0, where that cancels, from the series."""
    value = _float(e, x)
    z = arithmetic(e, "MUL", value, math.sqrt(2))
    ratio = arithmetic(e, "DIV", unary(e, "GELU", z, approximate=False), z)
    far = arithmetic(e, "SUB", arithmetic(e, "ADD", ratio, ratio), 1.0)
    square = unary(e, "SQUARE", value)
    series = arithmetic(e, "ADD", arithmetic(e, "MUL", square, _ERF_SERIES[-1]), _ERF_SERIES[-2])
    for coefficient in _ERF_SERIES[-3::-1]:
        series = arithmetic(e, "ADD", arithmetic(e, "MUL", square, series), coefficient)
    return _where(e, "LESS", unary(e, "ABS", value), 0.5, arithmetic(e, "MUL", value, series), far)


@rule(aten.erfc.default)
def erfc(e: Emitter, x: Operand) -> Value:
    return arithmetic(e, "SUB", 1.0, erf(e, x))


@rule(aten.isnan.default)
def isnan(e: Emitter, x: Operand) -> Value:
    value = e.value(x)
    return broadcast(e, "NOT_EQUAL", (value, value), value.dtype, torch.bool)


@rule(aten.isinf.default)
def isinf(e: Emitter, x: Operand) -> Value:
    return broadcast(e, "EQUAL", (absolute(e, x), math.inf), torch.float32, torch.bool)


@rule(aten.hypot.default)
def hypot(e: Emitter, x: Operand, y: Operand) -> Value:
    """The larger times sqrt(1 + the ratio squared), which overflows no earlier than the result."""
    x, y = absolute(e, x), absolute(e, y)
    large, small = arithmetic(e, "MAXIMUM", x, y), arithmetic(e, "MINIMUM", x, y)
    ratio = arithmetic(e, "DIV", small, arithmetic(e, "MAXIMUM", large, 1e-30))
    return arithmetic(e, "MUL", large, unary(e, "SQRT", arithmetic(e, "ADD", unary(e, "SQUARE", ratio), 1.0)))
