"""The two functions that make one bit of a number: :func:`sign` in {-1, +1} and :func:`step` in {0, 1}."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from binmat.quantizers.estimators import ESTIMATORS, Estimator


def sign(x: Tensor, estimator: str = "clip") -> Tensor:
    """-1 where x < 0, else +1, in x's dtype and shape: sign(0) = sign(-0.0) = sign(NaN) = +1.

    Gradient: grad * s'(x), s' being the estimator's derivative (:mod:`binmat.quantizers.estimators`). The backward
    pass keeps at most one byte per element, never x itself, and is not differentiable a second time.
    """
    return _Bit.apply(x, ESTIMATORS[estimator], True)  # type: ignore[no-any-return]


def step(x: Tensor, estimator: str = "clip") -> Tensor:
    """0 where x < 0, else 1, in x's dtype and shape: (sign(2x) + 1) / 2.

    Gradient: grad * s'(2x), which the chain rule gives: 1/2 from the halving, 2 from the doubling. With the estimator
    ``clip`` that is 1 where abs(x) <= 1/2: DoReFa's 1 on [0, 1] once its rounding threshold 1/2 is subtracted.
    """
    return _Bit.apply(x, ESTIMATORS[estimator], False)  # type: ignore[no-any-return]


class _Bit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, estimator: Estimator, signed: bool) -> Tensor:
        ctx.estimator = estimator
        if ctx.needs_input_grad[0]:
            kept = estimator.keep(x if signed else 2 * x)
            ctx.save_for_backward(*[] if kept is None else [kept])
        if signed:
            return torch.where(x < 0, -1.0, 1.0).to(x.dtype)
        return (x < 0).logical_not_().to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        kept = ctx.saved_tensors[0] if ctx.saved_tensors else None
        return ctx.estimator.backward(grad, kept), None, None
