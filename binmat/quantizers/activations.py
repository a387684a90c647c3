"""Activation binarizers: from float activations to +-1 or {0, 1}."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from binmat.quantizers.choices import check_choice
from binmat.quantizers.estimators import ESTIMATORS
from binmat.quantizers.sign import sign, step

EPS = 1e-5


@dataclass(frozen=True)
class Levels:
    """The two values that x is rounded to; the upper one is 1.

    midpoint: halfway between them, the fixed part of tau. bits: (u = x - tau, name of an estimator, the training's
    progress) to the values.
    """

    midpoint: float
    bits: Callable[[Tensor, str, float], Tensor]


@dataclass(frozen=True)
class Threshold:
    """The learnable part of tau: whether there is one, and whether there is one per input channel or one per layer."""

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

    levels: ``signed`` +-1, or ``unsigned`` {0, 1}: DoReFa's round(clip(x, 0, 1)), which takes 1/2 to 1.
    threshold: the learnable part of tau, starting at 0: ``none``, one per ``layer``, one per ``channel``. ``unsigned``
        adds a fixed 1/2.
    estimator: stands for the derivative of sign, at u = x - tau if signed and at u = 2 (x - tau) if unsigned
        (:mod:`binmat.quantizers.estimators`).
    normalize: in training u is divided by sqrt(var + 1e-5), var being the unbiased variance of one sample's x. That
        changes no sign, but fits the estimator's window to the sample. The deviation is a constant in the backward
        pass. ReCU's code differentiates it too, which would cost a float copy of x.

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
        """Halfway between the two values that x is rounded to; the fixed part of tau."""
        return LEVELS[self.levels].midpoint

    def binarize(
        self,
        x: Tensor,
        threshold: Tensor | None,
        sample_dims: tuple[int, ...],
        training: bool = False,
        progress: float = 0.0,
    ) -> Tensor:
        """The bits of x, in x's shape and dtype.

        threshold: the learnable part of tau, broadcastable to x, or None. sample_dims: the dimensions of one sample.
        progress: of the training, in [0, 1]; it changes gradients, never a bit.
        """
        u = x if threshold is None else x - threshold
        if self.midpoint:
            u = u - self.midpoint
        if self.normalize and training:
            # A sample of one number has no unbiased variance; 0 keeps its sign.
            correction = min(1, math.prod(x.shape[dim] for dim in sample_dims) - 1)
            u = u / (x.detach().var(sample_dims, correction=correction, keepdim=True) + EPS).sqrt()
        return LEVELS[self.levels].bits(u, self.estimator, progress)
