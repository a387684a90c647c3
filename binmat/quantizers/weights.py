"""Weight binarizers: from latent float weights to +-1 and a scale."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from binmat.quantizers import recu
from binmat.quantizers.choices import check_choice
from binmat.quantizers.estimators import ESTIMATORS
from binmat.quantizers.scales import centred, channel_scale, layer_scale, scaled, scaled_straight
from binmat.quantizers.sign import sign

METHODS = ("sign", "centred", "recu")
SCALES = ("none", "channel", "layer", "learnable")
GRADIENTS = ("straight", "product")


@dataclass(frozen=True)
class WeightBinarizer:
    """B = sign(p(w)), W = alpha * B; weights are [O, ...], output channels first.

    method: p(w). ``sign``: w itself. ``centred``: w - mean per output channel. ``recu``: centred, standardised,
        clamped to a quantile that follows the training's progress (:mod:`binmat.quantizers.recu`). The clamp never
        changes a sign.
    estimator: stands for the derivative of sign, see :mod:`binmat.quantizers.estimators`.
    scale: alpha. ``none``: 1. ``channel``: mean abs per output channel. ``layer``: mean abs over the layer. Both means
        are taken of the weight that the method starts from, that is of the centred one if it centres. ``learnable``:
        a parameter per output channel.
    gradient: through the product alpha * B. ``straight``: dL/dB = dL/dW and none to alpha, so the estimator stands for
        the derivative of alpha * sign. ``product``: the product rule, dL/dB = alpha dL/dW, dL/dalpha = sum B dL/dW;
        a learnable alpha always takes it.
    clip_latent: latent weights are clipped to [-1, 1] after each optimizer step
        (:func:`binmat.nn.clip_latent_weights`).
    """

    method: str = "sign"
    estimator: str = "clip"
    scale: str = "none"
    gradient: str = "product"
    clip_latent: bool = False

    def __post_init__(self) -> None:
        check_choice("weight method", self.method, METHODS)
        check_choice("weight estimator", self.estimator, ESTIMATORS)
        check_choice("scale", self.scale, SCALES)
        check_choice("scale gradient", self.gradient, GRADIENTS)

    def binarize(self, weight: Tensor, progress: float = 0.0) -> Tensor:
        """B: +-1 in the weight's shape and dtype. ``progress`` in [0, 1] matters to recu's gradient alone."""
        if self.method == "recu":
            return sign(recu.clamped(weight, progress), self.estimator)
        return sign(self._source(weight), self.estimator)

    def scale_of(self, weight: Tensor) -> Tensor | None:
        """alpha as a function of the weight, [O]; None where there is none or it is a parameter."""
        if self.scale == "channel":
            return channel_scale(self._source(weight))
        if self.scale == "layer":
            return layer_scale(self._source(weight))
        return None

    def initial_scale(self, weight: Tensor) -> Tensor:
        """Where a learnable scale starts, [O]: mean abs of the centred (or plain) w, the least-squares fit.

        For recu that is mean abs w1 times the fit of the centred weight by the standardised w1.
        """
        return channel_scale(self._source(weight.detach()))

    def scaled(self, weight: Tensor, learnable: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """W = alpha * B with the scheme's gradient; ``learnable`` is the scale parameter [O] where there is one."""
        binary = self.binarize(weight, progress)
        if learnable is not None:
            return scaled(binary, learnable)
        scale = self.scale_of(weight)
        if scale is None:
            return binary
        return scaled(binary, scale) if self.gradient == "product" else scaled_straight(binary, scale)

    def _source(self, weight: Tensor) -> Tensor:
        return weight if self.method == "sign" else centred(weight)
