"""The two functions that make one bit of a number: :func:`sign` in {-1, +1} and :func:`step` in {0, 1}."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from binmat.quantizers.estimators import estimator_at

SMALLEST_NORMAL = 2.0**-126


def is_negative(x: Tensor) -> Tensor:
    """Where sign(x) = -1, as bool: x <= -2^-126, float32's smallest normal number.

    0, -0.0, NaN and float32's denormals count as not negative. Larq Compute Engine reads bits like that on x86, where
    denormals are flushed, and the answer does not depend on the flush mode. For float16 the condition is x < 0.
    """
    limits = torch.finfo(x.dtype)
    return x <= -max(SMALLEST_NORMAL, limits.smallest_normal * limits.eps)


def sign(x: Tensor, estimator: str = "clip", progress: float = 0.0) -> Tensor:
    """-1 where x is negative (:func:`is_negative`), else +1, in x's dtype and shape: sign(0) = sign(-0.0) = +1.

    Gradient: grad * s'(x), s' being the estimator's derivative (:mod:`binmat.quantizers.estimators`) at the training's
    progress in [0, 1]. The backward pass keeps at most one byte per element and cannot be differentiated again.
    """
    return _bit(x, estimator, True, progress)


def step(x: Tensor, estimator: str = "clip", progress: float = 0.0) -> Tensor:
    """0 where x is negative (:func:`is_negative`), else 1, in x's dtype and shape: (sign(2x) + 1) / 2.

    Gradient: grad * s'(2x), which the chain rule gives: 1/2 from the halving, 2 from the doubling. With the estimator
    ``clip`` that is 1 where abs(x) <= 1/2: DoReFa's 1 on [0, 1] once its rounding threshold 1/2 is subtracted.
    """
    return _bit(x, estimator, False, progress)


def _bit(x: Tensor, estimator: str, signed: bool, progress: float) -> Tensor:
    """Without gradients the function alone: autograd would keep what backward needs for a trainable x all the same."""
    return (_Bit.apply if torch.is_grad_enabled() else _Bit.forward)(x, estimator, signed, progress)


class _Bit(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, estimator: str, signed: bool, progress: float) -> Tensor:
        # torch.where with two numbers takes four times as long.
        return is_negative(x).to(x.dtype).mul_(-2 if signed else -1).add_(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, str, bool, float], output: Tensor) -> None:
        x, name, signed, progress = inputs
        ctx.estimator = estimator_at(name, progress)
        if ctx.needs_input_grad[0]:
            kept = ctx.estimator.keep(x if signed else 2 * x)
            ctx.save_for_backward(*[] if kept is None else [kept])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        kept = ctx.saved_tensors[0] if ctx.saved_tensors else None
        return ctx.estimator.backward(grad, kept), None, None, None
