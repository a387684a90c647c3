"""A learnable shift per channel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn


class Shift(nn.Module):
    """x + bias, bias [C] learnable from 0; [N, C, ...] to the same shape."""

    is_leaf: ClassVar[bool] = True

    def __init__(
        self, channels: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.view(-1, *[1] * (x.dim() - 2))

    def extra_repr(self) -> str:
        return f"{self.bias.numel()}"
