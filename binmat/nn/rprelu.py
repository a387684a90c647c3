"""RPReLU: the activation function of ReActNet."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RPReLU(nn.Module):
    """PReLU(x - gamma) + zeta, all per channel (Liu et al., ReActNet, ECCV 2020).

    Parameters ``gamma``, ``slope``, ``zeta``, each [C]; gamma and zeta start at 0, slope at the argument ``slope``.
    output_shift: False leaves zeta out (None): the shifted PReLU of official BiMatting's decoder.
    dim: the dimension of the channels. 1 is right for [N, C, ...], -1 behind a linear layer, whose channels are the
    last dimension of [N, C], [B, N, C] or [B, H, W, C], and -3 behind a 2-D convolution, with or without a batch.

    forward: any shape with C channels in ``dim``, to the same shape. Gradients: 1 or slope (x below gamma) to x, minus
    their sum to gamma, the sum of min(x - gamma, 0) to slope, 1 to zeta.

    BiMatting's and ReActNet's code add both shifts: gamma = -b1, zeta = b2.

    >>> RPReLU(channels=1, slope=0.25)(torch.tensor([[[-4.0, 0.0, 4.0]]])).tolist()
    [[[-1.0, 0.0, 4.0]]]
    >>> RPReLU(channels=16, dim=-1)(torch.rand(2, 7, 16)).shape
    torch.Size([2, 7, 16])
    """

    is_leaf: ClassVar[bool] = True

    zeta: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        slope: float = 0.25,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        output_shift: bool = True,
        dim: int = 1,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.gamma = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))
        self.slope = nn.Parameter(torch.full((channels,), slope, device=device, dtype=dtype))
        zeta = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype)) if output_shift else None
        self.register_parameter("zeta", zeta)

    def forward(self, x: Tensor) -> Tensor:
        dim = self.dim % x.dim()
        per_channel = (-1, *[1] * (x.dim() - dim - 1))
        y = x - self.gamma.view(per_channel)
        # F.prelu takes dimension 1 for the channels.
        y = F.prelu(y, self.slope) if dim == 1 else F.prelu(y.reshape(-1, *x.shape[dim:]), self.slope).view(x.shape)
        return y if self.zeta is None else y + self.zeta.view(per_channel)

    def extra_repr(self) -> str:
        shift = "" if self.zeta is not None else ", output_shift=False"
        return f"{self.gamma.numel()}" + shift + ("" if self.dim == 1 else f", dim={self.dim}")
