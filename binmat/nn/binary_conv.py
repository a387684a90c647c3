"""The binary 2-D convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import PolicyError, RecipeError
from binmat.nn.binary_layer import BinaryLayer
from binmat.quantizers.scheme import Scheme


class BinaryConv2d(BinaryLayer, nn.Conv2d):
    """alpha * conv2d(a(x), B(weight)) [* K] + bias, by a scheme.

    Takes nn.Conv2d's arguments and keeps its keys ``weight`` and ``bias``. Any stride, dilation, groups and zero
    padding mode; ``padding="same"`` where it is symmetric. Padding surrounds a(x), not x:

    pad_value: 0 or 1, in the activation's own domain. 0 makes signed activations ternary at the border (what the
        papers train); 1 is a bit like any other.

    forward: float [N, I, H, W] (or [I, H, W]) to float [N, O, H', W']. Without gradients the convolution's sum is an
    exact integer, scaled afterwards, as every deployed kernel does it; with them alpha is folded into the weights,
    which spares the sum being kept for backward, and the two differ by float rounding.

    Raises PolicyError for a padding that a binary convolution cannot have, RecipeError for another pad_value.
    """

    pad_value: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        scheme: Scheme,
        pad_value: int = 0,
    ) -> None:
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            device, dtype,
        )  # fmt: skip
        if padding_mode != "zeros":
            raise PolicyError(
                f"a binary convolution cannot pad by '{padding_mode}': leave the layer float, or pad its input first"
            )
        if pad_value not in (0, 1):
            raise RecipeError(f"pad_value cannot be {pad_value!r}: choose 0 or 1")
        self.padding = self._padding_per_side()
        self.pad_value = pad_value
        self._set_scheme(scheme, in_channels)

    @classmethod
    def from_float(cls, conv: nn.Conv2d, scheme: Scheme, pad_value: int = 0) -> BinaryConv2d:
        """The binary layer whose latent weights are ``conv``'s: the very parameters, so tied ones stay tied.

        Thresholds start at 0, a learnable scale at the least-squares fit of the weights.
        """
        binary = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
            conv.groups, conv.bias is not None, conv.padding_mode, device="meta", scheme=scheme, pad_value=pad_value,
        )  # fmt: skip
        binary.weight, binary.bias = conv.weight, conv.bias
        binary._set_scheme(scheme, conv.in_channels)
        return binary.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        per_channel = self.threshold if self.threshold is None else self.threshold.view(-1, 1, 1)
        bits = self.scheme.activation.binarize(x, per_channel, (-3, -2, -1), self.training)
        if torch.is_grad_enabled():
            y = self._convolve(bits, self._scaled_weight())
        else:
            y = self._convolve(bits, self._binary_weight()) * self.output_scale().view(-1, 1, 1)
        if self.scheme.activation_scale:
            y = y * self._activation_scale(x)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)

    def _convolve(self, bits: Tensor, weight: Tensor) -> Tensor:
        padding = self.padding
        if self.pad_value and any(padding):
            vertical, horizontal = padding
            bits = F.pad(bits, (horizontal, horizontal, vertical, vertical), value=float(self.pad_value))
            padding = (0, 0)
        return F.conv2d(bits, weight, None, self.stride, padding, self.dilation, self.groups)

    @torch.no_grad()
    def _activation_scale(self, x: Tensor) -> Tensor:
        """XNOR-Net's K, [N, O, H', W']: the window's mean of mean abs x over the channels of the output's group."""
        magnitude = x.abs().unflatten(-3, (self.groups, -1)).mean(-3)
        box = x.new_full((self.groups, 1, *self.kernel_size), 1 / (self.kernel_size[0] * self.kernel_size[1]))
        k = F.conv2d(magnitude, box, None, self.stride, self.padding, self.dilation, self.groups)
        return k.repeat_interleave(self.out_channels // self.groups, dim=-3)

    def _padding_per_side(self) -> tuple[int, int]:
        if self.padding == "valid":
            return (0, 0)
        if self.padding == "same":
            total = [dilation * (size - 1) for dilation, size in zip(self.dilation, self.kernel_size, strict=True)]
            if any(pixels % 2 for pixels in total):
                raise PolicyError(
                    f"padding='same' of a {self.kernel_size} kernel is not symmetric: leave the layer float, "
                    "or pad its input first"
                )
            return (total[0] // 2, total[1] // 2)
        return self.padding  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scheme={self.scheme.name}, pad_value={self.pad_value}"
