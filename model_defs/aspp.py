"""Atrous spatial pyramid pooling (ASPP) of DeepLabV3 (Chen et al., arXiv 1706.05587, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.nn.conv_norm import conv_norm, conv_norm_relu

#: Channels of each branch and of the result.
CHANNELS = 256
_DROPOUT = 0.5


class ASPP(nn.Module):
    """[N, in_channels, h, w] -> [N, 256, h, w], with torchvision's key names.

    A 1x1 convolution, a 3x3 convolution for each dilation of ``rates`` and a 1x1 convolution of the mean over h and w,
    each with batch norm and ReLU; then a 1x1 convolution of all of them together, batch norm, ReLU and, in training,
    dropout. BGMv2 takes the rates 3, 6, 9 and DeepLabV3 12, 24, 36.
    """

    def __init__(self, in_channels: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_norm(in_channels, CHANNELS, 1), nn.ReLU())
        self.convs = nn.ModuleList(
            [
                conv_norm_relu(in_channels, CHANNELS, kernel_size=1),
                *(conv_norm_relu(in_channels, CHANNELS, dilation=rate) for rate in rates),
                pooled,
            ]
        )
        self.project = nn.Sequential(
            *conv_norm(len(self.convs) * CHANNELS, CHANNELS, 1), nn.ReLU(), nn.Dropout(_DROPOUT)
        )

    def forward(self, x: Tensor) -> Tensor:
        *windows, pooled = (branch(x) for branch in self.convs)
        everywhere = F.interpolate(pooled, size=(x.shape[2], x.shape[3]), mode="bilinear", align_corners=False)
        return self.project(torch.cat([*windows, everywhere], 1))
