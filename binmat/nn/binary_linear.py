"""The binary linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.nn.binary_layer import BinaryLayer
from binmat.quantizers.scheme import Scheme


class BinaryLinear(BinaryLayer, nn.Linear):
    """alpha * linear(a(x), B(weight)) [* K] + bias, by a scheme.

    Takes nn.Linear's arguments and keeps its keys ``weight`` and ``bias``. forward: float [..., I] to float [..., O];
    one row of I numbers is a sample. Exactness with and without gradients as for :class:`binmat.nn.BinaryConv2d`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        scheme: Scheme,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._set_scheme(scheme, in_features)

    @classmethod
    def from_float(cls, linear: nn.Linear, scheme: Scheme) -> BinaryLinear:
        """The binary layer whose latent weights are ``linear``'s: the very parameters, so tied ones stay tied."""
        binary = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta", scheme=scheme)
        binary.weight, binary.bias = linear.weight, linear.bias
        binary._set_scheme(scheme, linear.in_features)
        return binary.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:
        bits = self.scheme.activation.binarize(x, self.threshold, (-1,), self.training)
        if torch.is_grad_enabled():
            y = F.linear(bits, self._scaled_weight())
        else:
            y = F.linear(bits, self._binary_weight())
            y = y * self.output_scale().to(y.dtype)
        if self.scheme.activation_scale:
            y = y * self.activation_scale(x).to(y.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def activation_scale(self, x: Tensor) -> Tensor:
        """XNOR-Net's K, [..., 1]: mean abs x of a sample."""
        return x.abs().mean(-1, keepdim=True)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scheme={self.scheme.name}"
