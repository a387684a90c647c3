"""The convolutional GRU that RVM's decoder carries its memory in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binmat.nn.recurrence import Recurrent


class ConvGRU(Recurrent):
    """Gated recurrent unit whose gates are convolutions (Ballas et al., ICLR 2016; RVM, section 3.2).

    With [a, b] the concatenation along channels::

        [r, z] = sigmoid(ih([x, h]))
        c      = tanh(hh([x, r * h]))
        h'     = (1 - z) * h + z * c

    x and h: [B, channels, H, W]. The output of a step is its new state, in (-1, 1) where h is.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.ih = nn.Sequential(nn.Conv2d(2 * channels, 2 * channels, kernel_size, padding=padding), nn.Sigmoid())
        self.hh = nn.Sequential(nn.Conv2d(2 * channels, channels, kernel_size, padding=padding), nn.Tanh())

    def step(self, x: Tensor, h: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        r, z = self.ih(torch.cat([x, h], dim=1)).chunk(2, dim=1)
        c = self.hh(torch.cat([x, r * h], dim=1))
        h = (1 - z) * h + z * c
        return h, h
