"""Instance-batch normalisation, MODNet's mix of the two."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class IBNorm(nn.Module):
    """Batch norm on the first half of the channels, instance norm on the rest.

    With c = channels // 2 and, per image and channel, mean and (biased) variance over H and W:

        y[:, :c] = gamma * (x - running_mean) / sqrt(running_var + eps) + beta     (batch norm)
        y[:, c:] = (x - mean) / sqrt(variance + eps)                               (instance norm, no gain or shift)

    x, y: [N, channels, H, W], any range. Keys: ``bnorm.*``; the instance half has no parameters. It is written out in
    the operators that TFLite has. Source: MODNet's official code (AAAI 2022), after IBN-Net ("Two at Once", ECCV 2018).
    """

    #: One node of a traced graph: passes and counts see a norm between convolution and activation.
    is_leaf = True

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.batch_channels = channels // 2
        self.eps = eps
        self.bnorm = nn.BatchNorm2d(self.batch_channels, eps=eps)

    def reset_parameters(self) -> None:
        self.bnorm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        batch = self.bnorm(x[:, : self.batch_channels])
        instance = x[:, self.batch_channels :]
        centred = instance - instance.mean((2, 3), keepdim=True)
        variance = (centred * centred).mean((2, 3), keepdim=True)
        return torch.cat((batch, centred * torch.rsqrt(variance + self.eps)), 1)
