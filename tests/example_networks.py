"""Two networks that binmat's registry does not know: what a user would bring."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """Functional activations, skip connections, odd sizes, bilinear upsampling. [N, 3, H, W] -> [N, 1, H, W]."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1 = nn.Conv2d(3, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.down2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * width)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, padding=2, dilation=2)
        self.up = nn.Conv2d(3 * width, width, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.norm1(self.down1(x)))
        b = torch.relu(self.norm2(self.down2(a)))
        b = self.middle(b).relu()
        b = F.interpolate(b, scale_factor=2.0, mode="bilinear", align_corners=False)[:, :, : x.shape[2], : x.shape[3]]
        c = F.leaky_relu(self.norm3(self.up(torch.cat([a, b], 1))), 0.1)
        return torch.sigmoid(self.head(c))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, groups=groups, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.project = (
            nn.Sequential(nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
            if stride != 1 or channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.project(x))


class ResNet(nn.Module):
    """One ReLU module used twice, a grouped convolution, a linear hidden layer. [N, 3, H, W] -> [N, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.PReLU(12))
        self.stage1 = ResidualBlock(12, 12, groups=3)
        self.stage2 = ResidualBlock(12, 24, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden = nn.Linear(24, 16)
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.stage2(self.stage1(self.stem(x)))).flatten(1)
        return self.out(F.relu(self.hidden(x)))


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norm statistics and parameters that are not the identity, so that folding mistakes show."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(layer.weight, -1.0, 1.0, generator=generator)
            nn.init.uniform_(layer.bias, -0.3, 0.3, generator=generator)
    return module
