"""Activation binarizers: from float activations to +-1 or {0, 1}."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from binmat.quantizers.choices import check_choice
from binmat.quantizers.estimators import ESTIMATORS
from binmat.quantizers.sign import sign, step

EPS = 1e-5


@dataclass(frozen=True)
class Levels:
    """The two values that x is rounded to.

    midpoint: halfway between them, the fixed part of tau. The upper one is 1, so the lower one is 2 midpoint - 1.
    bits: u = x - tau and an estimator's name to the values.
    """

    midpoint: float
    bits: Callable[[Tensor, str], Tensor]


@dataclass(frozen=True)
class Threshold:
    """The learnable part of tau: whether there is one, and whether per input channel or once in the layer."""

    learnt: bool = True
    per_channel: bool = False


LEVELS: dict[str, Levels] = {"signed": Levels(0.0, sign), "unsigned": Levels(0.5, step)}
THRESHOLDS: dict[str, Threshold] = {
    "none": Threshold(learnt=False),
    "layer": Threshold(),
    "channel": Threshold(per_channel=True),
}


@dataclass(frozen=True)
class ActivationBinarizer:
    """a = sign(x - tau) in {-1, +1}, or step(x - tau) in {0, 1}.

    levels: ``signed`` +-1. ``unsigned`` {0, 1}: DoReFa's round(clip(x, 0, 1)), with a tie at 1/2 going to 1 so that
        a = (sign(x - 1/2) + 1) / 2 under sign(0) = +1.
    threshold: the learnable part of tau, starting at 0: ``none``, one per ``layer``, one per ``channel``. ``unsigned``
        adds its fixed 1/2.
    estimator: stands for the derivative of sign, at u = x - tau if signed and at u = 2 (x - tau) if unsigned
        (:mod:`binmat.quantizers.estimators`).
    normalize: in training u is divided by sqrt(var + 1e-5), var being the unbiased variance of one sample's x. No sign
        changes; the estimator's window follows the sample's spread. The deviation is a constant in the backward pass:
        ReCU's code differentiates it too, which takes a float copy of x to do and changes the gradient by its
        component along x alone.

    Gradient: dL/dx = dL/da * s'(u) / deviation, deviation 1 unless normalized; dL/dtau = minus its sum.

    >>> from torch import tensor
    >>> ActivationBinarizer(levels="unsigned").binarize(tensor([0.2, 0.5, 0.9]), threshold=None, sample_dims=(-1,))
    tensor([0., 1., 1.])
    """

    levels: str = "signed"
    threshold: str = "none"
    estimator: str = "clip"
    normalize: bool = False

    def __post_init__(self) -> None:
        check_choice("activation", self.levels, LEVELS)
        check_choice("threshold", self.threshold, THRESHOLDS)
        check_choice("estimator", self.estimator, ESTIMATORS)

    @property
    def midpoint(self) -> float:
        """The fixed part of tau: halfway between the two values that x is rounded to."""
        return LEVELS[self.levels].midpoint

    def binarize(
        self, x: Tensor, threshold: Tensor | None, sample_dims: tuple[int, ...], training: bool = False
    ) -> Tensor:
        """The bits of x, in x's shape and dtype.

        threshold: the learnable part of tau, broadcastable to x, or None. sample_dims: the dimensions of x that make
        up one sample.
        """
        u = x if threshold is None else x - threshold
        if self.midpoint:
            u = u - self.midpoint
        if self.normalize and training:
            u = u / _deviation(x, sample_dims)
        return LEVELS[self.levels].bits(u, self.estimator)


@torch.no_grad()
def _deviation(x: Tensor, sample_dims: tuple[int, ...]) -> Tensor:
    count = math.prod([x.shape[dim] for dim in sample_dims])
    # A sample of one number has no unbiased variance; 0 keeps its sign.
    return (x.var(sample_dims, correction=min(1, count - 1), keepdim=True) + EPS).sqrt()
