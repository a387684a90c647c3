"""Weight binarizers: from latent float weights to +-1 and a scale."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from binmat.quantizers.choices import check_choice
from binmat.quantizers.estimators import ESTIMATORS
from binmat.quantizers.scales import GRADIENTS, SCALES
from binmat.quantizers.sign import sign
from binmat.quantizers.weight_methods import WEIGHT_METHODS


@dataclass(frozen=True)
class WeightBinarizer:
    """B = sign(p(w)), W = alpha * B; weights are [O, ...], output channels first.

    method: p(w), a key of :data:`binmat.quantizers.weight_methods.WEIGHT_METHODS`. ``sign``: w itself. ``centred``:
        w - mean per output channel. ``centred_inputs``: w - mean over the input channels at each kernel position.
        ``standardised``: centred and divided by its deviation. ``recu``: centred, standardised, clamped.
    estimator: stands for the derivative of sign (:mod:`binmat.quantizers.estimators`).
    scale_kind: alpha, a key of :data:`binmat.quantizers.scales.SCALES`. ``none``: 1. ``channel``: mean abs per output
        channel. ``layer``: mean abs over the layer. ``power_of_two``: the mean per output channel, rounded to a power
        of 2. The means are those of the centred weight if the method centres. ``learnable``: a parameter per output
        channel, which starts at the channel's mean.
    gradient: of alpha * B, a key of :data:`binmat.quantizers.scales.GRADIENTS`. ``straight``: dL/dB = dL/dW and none to
        alpha, so the estimator stands for the derivative of alpha * sign. ``product``: the product rule, dL/dB =
        alpha dL/dW and dL/dalpha = sum B dL/dW; a learnable alpha always takes it. ``constant``: that without
        dL/dalpha. ``elementwise``: dL/dB = alpha dL/dW, and dL/dW / n besides to what the scale is measured of.
    clip_latent: :func:`binmat.nn.clip_latent_weights` clips the latent weights to [-1, 1] after each optimizer step.

    >>> from torch import tensor
    >>> WeightBinarizer(method="centred", scale_kind="channel").scaled(tensor([[1.0, 2.0], [5.0, 1.0]]))
    tensor([[-0.5000,  0.5000],
            [ 2.0000, -2.0000]])
    """

    method: str = "sign"
    estimator: str = "clip"
    scale_kind: str = "none"
    gradient: str = "product"
    clip_latent: bool = False

    def __post_init__(self) -> None:
        check_choice("weight method", self.method, WEIGHT_METHODS)
        check_choice("weight estimator", self.estimator, ESTIMATORS)
        check_choice("scale", self.scale_kind, SCALES)
        check_choice("scale gradient", self.gradient, GRADIENTS)

    def binarize(
        self, weight: Tensor, learnable: Tensor | None = None, progress: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        """B, +-1 in the weight's shape and dtype, and alpha [O] or None where there is no scale.

        learnable: the scale parameter [O] where there is one. progress: of the training, in [0, 1]; it changes
        gradients, never a sign.
        """
        binary, scale, _ = self._parts(weight, learnable, progress)
        return binary, scale

    def scaled(self, weight: Tensor, learnable: Tensor | None = None, progress: float = 0.0) -> Tensor:
        """W = alpha * B with the scheme's gradient; arguments as for :meth:`binarize`."""
        binary, scale, source = self._parts(weight, learnable, progress)
        if scale is None:
            return binary
        product = GRADIENTS[self.gradient if learnable is None else "product"]
        return product(binary, scale.view(-1, *[1] * (binary.dim() - 1)), source)

    def clip(self, weight: Tensor) -> Tensor:
        """What the latent weights become after an optimizer step where ``clip_latent`` is set.

        They are centred where the method centres, then clipped to [-1, 1], as XNOR-Net's code does it.
        """
        return WEIGHT_METHODS[self.method].source(weight).clamp(-1, 1)

    def _parts(self, weight: Tensor, learnable: Tensor | None, progress: float) -> tuple[Tensor, Tensor | None, Tensor]:
        """B, alpha or None, and the weight that alpha is measured of."""
        method, measure = WEIGHT_METHODS[self.method], SCALES[self.scale_kind].measure
        source = method.source(weight)
        binary = sign(method.signed(source, progress), self.estimator, progress)
        return binary, measure(source) if learnable is None and measure is not None else learnable, source
