"""The binary 2-D convolution."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import PolicyError, RecipeError
from binmat.nn.binary_layer import BinaryLayer, Product
from binmat.quantizers.scheme import Scheme

Size = int | tuple[int, int]


class BinaryConv2d(BinaryLayer, nn.Conv2d):
    """alpha * conv2d(a(x), B(weight)) [* K] + bias, by a scheme.

    Takes nn.Conv2d's arguments and keeps its keys ``weight`` and ``bias``. Any stride, dilation and groups; padding
    by zeros or ones, ``padding="same"`` where it is symmetric. Padding surrounds a(x), not x:

    pad_value: 0 or 1, in the activation's own domain. 0 makes signed activations ternary at the border (what the
        papers train); 1 is a bit like any other.

    forward: float [N, I, H, W] (or [I, H, W]) to float [N, O, H', W']. Without gradients the convolution's sum is an
    exact integer, scaled afterwards, as every deployed kernel does it; with them alpha is folded into the weights,
    which spares the sum being kept for backward. The two differ by float rounding.

    Raises PolicyError for a padding that a binary convolution cannot have, RecipeError for another pad_value.

    >>> from binmat.quantizers import get_scheme
    >>> layer = BinaryConv2d(3, 8, kernel_size=3, padding=1, scheme=get_scheme("reactnet"))
    >>> layer(torch.rand(1, 3, 6, 4)).shape, layer.deployed().weight.dtype
    (torch.Size([1, 8, 6, 4]), torch.int8)
    """

    sample_dims: ClassVar[tuple[int, ...]] = (-3, -2, -1)
    shape: ClassVar[tuple[str, ...]] = (
        "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode",
    )  # fmt: skip

    padding: tuple[int, int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: str | Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        scheme: Scheme,
        pad_value: int = 0,
    ) -> None:
        if padding_mode != "zeros":
            raise PolicyError(
                f"a binary convolution cannot pad by '{padding_mode}': leave the layer float, or pad its input first"
            )
        if pad_value not in (0, 1):
            raise RecipeError(f"pad_value cannot be {pad_value!r}: choose 0 or 1")
        symmetric = _symmetric(padding, kernel_size, dilation) if isinstance(padding, str) else padding
        nn.Conv2d.__init__(
            self, in_channels, out_channels, kernel_size, stride, symmetric, dilation, groups, bias,
            device=device, dtype=dtype,
        )  # fmt: skip
        self.pad_value = pad_value
        self._set_scheme(scheme)

    def product(self, values: Tensor, weight: Tensor, pad_value: float) -> Tensor:
        padding = self.padding
        if pad_value and any(padding):
            vertical, horizontal = padding
            values = F.pad(values, (horizontal, horizontal, vertical, vertical), value=float(pad_value))
            padding = (0, 0)
        return F.conv2d(values, weight, None, self.stride, padding, self.dilation, self.groups)

    @torch.no_grad()
    def input_scale(self, x: Tensor, product: Product) -> Tensor:
        """XNOR-Net's K, [N, O, H', W']: the window's mean of mean abs x over the channels of the output's group."""
        magnitude = x.abs().unflatten(-3, (self.groups, -1)).mean(-3)
        box = x.new_full((self.groups, 1, *self.kernel_size), 1 / (self.kernel_size[0] * self.kernel_size[1]))
        return product(magnitude, box, 0).repeat_interleave(self.out_channels // self.groups, dim=-3)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scheme={self.scheme.name}, pad_value={self.pad_value}"


def _symmetric(padding: str, kernel_size: Size, dilation: Size) -> tuple[int, int]:
    """``padding="valid"`` or ``"same"`` as pixels per side, (vertical, horizontal)."""
    if padding not in ("same", "valid"):
        raise PolicyError(f"padding cannot be '{padding}': give 'same', 'valid' or a number of pixels")
    if padding == "valid":
        return (0, 0)
    sizes = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    steps = dilation if isinstance(dilation, tuple) else (dilation, dilation)
    vertical, horizontal = ((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if vertical % 2 or horizontal % 2:
        raise PolicyError(
            f"padding='same' of a {sizes[0]}x{sizes[1]} binary convolution is not symmetric: "
            "leave the layer float, or pad its input first"
        )
    return (vertical // 2, horizontal // 2)
