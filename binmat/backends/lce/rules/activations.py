"""Activation functions: TFLite's own where it computes the same, else composed of exact steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.rules.elementwise import Number, Operand, arithmetic, arithmetic_like, unary
from binmat.backends.lce.rules.shapes import narrow
from binmat.backends.lce.tflite.schema import Activation
from binmat.backends.lce.values import Value
from binmat.errors import ExportError

aten = torch.ops.aten

#: The clamps that other operators can apply to their output.
_FUSED: dict[tuple[Number | None, Number | None], Activation] = {
    (0.0, None): Activation.RELU,
    (0.0, 6.0): Activation.RELU6,
    (-1.0, 1.0): Activation.RELU_N1_TO_1,
}


@rule(aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default)
def clamp(e: Emitter, x: Operand, low: Number | None, high: Number | None = None) -> Value:
    """min(max(x, low), high); None leaves that side open."""
    activation = _FUSED.get((low, high))
    if activation is None or e.output_dtype != torch.float32:
        return clamp_by_tensors(e, x, low, high)
    if isinstance(x, Value) and x.dtype == torch.float32 and e.fuse_into_producer(x, activation):
        return x
    value = unary(e, activation.name, x)
    if isinstance(x, Value) and x.tensor in e.without_negative_zero:
        e.without_negative_zero.add(value.tensor)
    return value


@rule(aten.clamp.Tensor, aten.clamp_min.Tensor)
def clamp_by_tensors(e: Emitter, x: Operand, low: Operand | None, high: Operand | None = None) -> Value:
    value = e.value(x)
    for kind, bound in (("MAXIMUM", low), ("MINIMUM", high)):
        value = value if bound is None else arithmetic(e, kind, value, bound)
    return value


@rule(aten.relu.default)
def relu(e: Emitter, x: Operand) -> Value:
    return clamp(e, x, 0.0)


@rule(aten.clamp_max.default, aten.clamp_max.Tensor)
def clamp_max(e: Emitter, x: Operand, high: Operand) -> Value:
    return clamp_by_tensors(e, x, None, high)


@rule(aten.hardsigmoid.default)
def hardsigmoid(e: Emitter, x: Operand) -> Value:
    """relu6(x + 3) / 6."""
    shifted = arithmetic(e, "ADD", x, 3.0)
    e.builder.fuse_activation(shifted.tensor, Activation.RELU6)
    return arithmetic(e, "DIV", shifted, 6.0)


@rule(aten.silu.default)
def silu(e: Emitter, x: Operand) -> Value:
    return arithmetic(e, "MUL", x, unary(e, "LOGISTIC", x))


@rule(aten.leaky_relu.default)
def leaky_relu(e: Emitter, x: Operand, slope: Number) -> Value:
    if slope == 1:
        return e.value(x)
    return unary(e, "LEAKY_RELU", x, alpha=float(slope))


@rule(aten.prelu.default, aten._prelu_kernel.default)
def prelu(e: Emitter, x: Operand, slope: Operand) -> Value:
    """TFLite's PRELU takes a constant slope per channel; the last dimension of the file is the channel."""
    value = e.preferred(x)
    if not isinstance(slope, Tensor):
        raise ExportError("its slope is computed by the network: PRELU takes a constant slope")
    rank = len(value.shape)
    channels = value.shape[1] if rank > 1 else 1
    if slope.numel() not in (1, channels):
        raise ExportError(f"its slope has {slope.numel()} values for {channels} channels")
    # The optimized kernel wants the slope's rank to be one less than the value's.
    slopes = slope.detach().reshape(-1).expand(channels).reshape(*[1] * (rank - 2), -1)
    return e.emit("PRELU", [value, e.constant(slopes.numpy())], value.shape, value.order)


@rule(aten.elu.default)
def elu(e: Emitter, x: Operand, alpha: Number, scale: Number, input_scale: Number) -> Value:
    """scale * (max(x, 0) + alpha * (exp(min(input_scale * x, 0)) - 1)); TFLite's ELU has all three at 1."""
    if (alpha, scale, input_scale) == (1, 1, 1):
        return unary(e, "ELU", x)
    below = arithmetic(e, "MINIMUM", arithmetic(e, "MUL", x, input_scale), 0.0)
    curved = arithmetic(e, "MUL", unary(e, "ELU", below), alpha)
    return arithmetic(e, "MUL", arithmetic(e, "ADD", unary(e, "RELU", x), curved), scale)


@rule(aten.celu.default)
def celu(e: Emitter, x: Operand, alpha: Number) -> Value:
    """max(x, 0) + alpha * (exp(min(x, 0) / alpha) - 1)."""
    return elu(e, x, alpha, 1, 1 / alpha)


@rule(aten.gelu.default)
def gelu(e: Emitter, x: Operand, approximate: str) -> Value:
    return unary(e, "GELU", x, approximate=approximate == "tanh")


@rule(aten.softplus.default)
def softplus(e: Emitter, x: Operand, beta: Number, threshold: Number) -> Value:
    """log(1 + exp(beta x)) / beta as max(x, 0) + log(1 + exp(-|beta x|)) / beta, which cannot overflow.

    Above the threshold torch returns x, which this equals to float precision when the threshold is at least 20.
    """
    if threshold < 20:
        raise ExportError(f"softplus with a threshold of {threshold} jumps to the identity early: use 20 or more")
    scaled = arithmetic_like(e, "MUL", e.value(x), beta) if beta != 1 else e.value(x)
    falling = unary(e, "EXP", unary(e, "NEG", unary(e, "ABS", scaled)))
    tail = unary(e, "LOG", arithmetic_like(e, "ADD", falling, 1.0))
    return arithmetic_like(e, "ADD", unary(e, "RELU", x), arithmetic_like(e, "MUL", tail, 1 / beta))


@rule(aten.mish.default)
def mish(e: Emitter, x: Operand) -> Value:
    return arithmetic(e, "MUL", x, unary(e, "TANH", softplus(e, x, 1, 20)))


@rule(aten.glu.default)
def glu(e: Emitter, x: Operand, dim: int) -> Value:
    value = e.value(x)
    half = value.shape[dim] // 2
    x, gate = (narrow(e, value, dim, start, start + half) for start in (0, half))
    return arithmetic(e, "MUL", x, unary(e, "LOGISTIC", gate))


def _along_last(e: Emitter, kind: str, x: Operand, dim: int, **options: Any) -> Value:
    """A function that runs along the last dimension of the file."""
    value = e.value(x)
    dim %= len(value.shape)
    order = (*(d for d in value.order if d != dim), dim)
    return e.emit(kind, [e.ordered(value, order)], value.shape, order, **options)


@rule(aten._softmax.default)
def softmax(e: Emitter, x: Operand, dim: int, half_to_float: bool) -> Value:
    return _along_last(e, "SOFTMAX", x, dim, beta=1.0)


@rule(aten._log_softmax.default)
def log_softmax(e: Emitter, x: Operand, dim: int, half_to_float: bool) -> Value:
    return _along_last(e, "LOG_SOFTMAX", x, dim)


@rule(aten.log_sigmoid_forward.default)
def log_sigmoid(e: Emitter, x: Operand) -> tuple[Value, None]:
    return unary(e, "NEG", softplus(e, unary(e, "NEG", x), 1, 20)), None
