"""The binary linear layer."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.nn.binary_layer import BinaryLayer, Product
from binmat.quantizers.scheme import Scheme


# torch's annotations leave out that the bias of a linear layer may be None.
class BinaryLinear(BinaryLayer, nn.Linear):  # type: ignore[misc]
    """alpha * linear(a(x), B(weight)) [* K] + bias, by a scheme.

    Takes nn.Linear's arguments and keeps its keys ``weight`` and ``bias``. forward: float [..., I] to float [..., O];
    one row of I numbers is a sample. Exactness with and without gradients as for :class:`binmat.nn.BinaryConv2d`.

    >>> from binmat.quantizers import get_scheme
    >>> layer = BinaryLinear(16, 10, scheme=get_scheme("xnor"))
    >>> layer(torch.rand(2, 16)).shape, layer.deployed().multiplier.shape
    (torch.Size([2, 10]), torch.Size([10]))
    """

    sample_dims: ClassVar[tuple[int, ...]] = (-1,)
    shape: ClassVar[tuple[str, ...]] = ("in_features", "out_features")

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
        self._set_scheme(scheme)

    def product(self, values: Tensor, weight: Tensor, pad_value: float) -> Tensor:
        return F.linear(values, weight)

    @torch.no_grad()
    def input_scale(self, x: Tensor, product: Product) -> Tensor:
        """XNOR-Net's K, [..., 1]: mean abs x of a sample."""
        return x.abs().mean(-1, keepdim=True)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scheme={self.scheme.name}"
