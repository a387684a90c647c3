"""The 1-bit layer: what the binary convolution and the binary linear layer have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from binmat.quantizers.activations import THRESHOLDS
from binmat.quantizers.scales import SCALES
from binmat.quantizers.scheme import Scheme

#: (values, weight, pad_value) to the sums of values times weights, one per output.
Product = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True, eq=False)
class Deployed:
    """What a kernel needs of a 1-bit layer: y = multiplier * product(s, weight) + bias, s = sign(x - threshold) = +-1.

    weight: int8 +-1 in the shape of the latent weights [O, I, ...]. multiplier, bias: [O]. threshold: [1] or [I].
    pad_value: what padding holds in the domain of s: -1, 0 or 1. The floats have the layer's dtype.

    A scheme with an input scale map K has y * K + b instead, b being the layer's own bias, which is then not in
    ``bias``.
    """

    weight: Tensor
    multiplier: Tensor
    bias: Tensor
    threshold: Tensor
    pad_value: int


class BinaryLayer(nn.Module):
    """A layer with latent float weights ``weight`` [O, I, ...] that computes with one bit of each.

    It has two parameters more than the float layer, or None in their place: ``threshold`` [1] or [I], starting at 0,
    where the scheme learns thresholds, and ``scale`` [O] where it learns the scale.

    ``progress`` in [0, 1] is how far the training is (:func:`set_progress`). It changes no output, so it is not part of
    the state_dict; :func:`binmat.save` keeps it in the file's metadata.

    A subclass gives ``product``, ``input_scale``, ``sample_dims`` (the dimensions of one sample of x, channels first)
    and ``shape`` (the names of the arguments that it shares with the float layer).
    """

    is_leaf: ClassVar[bool] = True
    sample_dims: ClassVar[tuple[int, ...]]
    shape: ClassVar[tuple[str, ...]]

    weight: Tensor
    bias: Tensor | None
    threshold: nn.Parameter | None
    scale: nn.Parameter | None
    scheme: Scheme
    progress: float
    pad_value: int = 0
    groups: int = 1

    @classmethod
    def from_float(cls, layer: nn.Conv2d | nn.Linear, scheme: Scheme, **options: Any) -> Self:
        """The binary layer whose latent weights are the float ``layer``'s: the very parameters, so tied ones stay tied.

        options: further arguments of the binary layer. Thresholds start at 0, a learnable scale at the least-squares
        fit of the weights.
        """
        shape = {name: getattr(layer, name) for name in cls.shape}
        binary = cls(**shape, bias=layer.bias is not None, device="meta", scheme=scheme, **options)
        binary.weight, binary.bias = layer.weight, layer.bias
        binary._set_scheme(scheme)
        return binary.train(layer.training)

    def product(self, values: Tensor, weight: Tensor, pad_value: float) -> Tensor:
        """The float layer's sums of values times weights, without bias."""
        raise NotImplementedError

    def input_scale(self, x: Tensor, product: Product) -> Tensor:
        """XNOR-Net's K, broadcastable to the output; product: as for :meth:`compute`."""
        raise NotImplementedError

    def per_channel(self, values: Tensor) -> Tensor:
        """One number per channel, or one for all, in a shape that broadcasts to the layer's input or output."""
        return values.view(-1, *[1] * (len(self.sample_dims) - 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(x, self.product)

    def compute(self, x: Tensor, product: Product) -> Tensor:
        """alpha * product(a(x), B) [* K] + bias, ``product`` being the layer's own or another way to the same sums.

        Without gradients the sums are exact integers, scaled afterwards; with them alpha is folded into the weights.
        """
        weights = self.scheme.weight
        threshold = None if self.threshold is None else self.per_channel(self.threshold)
        bits = self.scheme.activation.binarize(x, threshold, self.sample_dims, self.training, self.progress)
        if torch.is_grad_enabled():
            y = product(bits, weights.scaled(self.weight, self.scale, self.progress), self.pad_value)
        else:
            binary, scale = weights.binarize(self.weight, self.scale)
            y = product(bits, binary, self.pad_value)
            if scale is not None:
                y = y * self.per_channel(scale.to(y.dtype))
        if self.scheme.input_scale_map:
            y = y * self.input_scale(x, product).to(y.dtype)
        return y if self.bias is None else y + self.per_channel(self.bias.to(y.dtype))

    @torch.no_grad()
    def deployed(self) -> Deployed:
        """The layer as a kernel computes it, from the parameters as they are now; computed in float64, then rounded.

        The scheme's a, which lies in {0, 1} for DoReFa, is (1 - m) s + m with m the midpoint of its two values. So
        product(a, w) = (1 - m) product(s, w) + m sum(w), where a padded p is a padded s = (p - m) / (1 - m).
        """
        dtype, midpoint = self.weight.dtype, self.scheme.activation.midpoint
        binary, scale = self.scheme.weight.binarize(self.weight, self.scale)
        alpha = (self.weight.new_ones(self.weight.shape[0]) if scale is None else scale).double()
        bias = alpha * binary.double().flatten(1).sum(1) * midpoint
        if self.bias is not None and not self.scheme.input_scale_map:
            bias = bias + self.bias.double()
        learnt = self.weight.new_zeros(1) if self.threshold is None else self.threshold
        return Deployed(
            weight=binary.to(torch.int8),
            multiplier=(alpha * (1 - midpoint)).to(dtype),
            bias=bias.to(dtype),
            threshold=learnt + midpoint,
            pad_value=int((self.pad_value - midpoint) / (1 - midpoint)),
        )

    def _set_scheme(self, scheme: Scheme) -> None:
        """Create the scheme's parameters beside ``weight``, in its dtype and on its device."""
        self.scheme = scheme
        self.progress = 0.0
        kind = THRESHOLDS[scheme.activation.threshold]
        thresholds = self.weight.new_zeros(self.weight.shape[1] * self.groups if kind.per_channel else 1)
        self.register_parameter("threshold", nn.Parameter(thresholds) if kind.learnt else None)
        learnable = SCALES[scheme.weight.scale_kind].learnable
        start = scheme.weight.binarize(self.weight.detach())[1] if learnable else None
        self.register_parameter("scale", None if start is None else nn.Parameter(start))


def set_progress(module: nn.Module, fraction: float) -> None:
    """Tell every binary layer under ``module`` how far the training is: ``fraction`` = t / T in [0, 1].

    ReCU's quantile and the estimators ``ede``, ``fourier`` and ``power`` follow it. Call it once per epoch or step.
    Raises ValueError outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"training progress is a fraction in [0, 1], not {fraction}")
    for layer in module.modules():
        if isinstance(layer, BinaryLayer):
            layer.progress = float(fraction)


@torch.no_grad()
def clip_latent_weights(module: nn.Module) -> None:
    """Clip to [-1, 1], in place, the latent weights of the binary layers whose scheme asks for it: bnn, xnor_official.

    Call it after each optimizer step: outside [-1, 1] the clip estimator passes no gradient, so a weight that went
    there would never come back (Hubara et al. 2016). Weights that the scheme centres are centred before.
    """
    for layer in module.modules():
        if isinstance(layer, BinaryLayer) and layer.scheme.weight.clip_latent:
            layer.weight.copy_(layer.scheme.weight.clip(layer.weight))
