"""MobileNetV2 as a feature pyramid (Sandler et al., CVPR 2018), with torchvision's key names."""

from __future__ import annotations

from torch import Tensor, nn

from binmat.nn.conv_norm import conv_norm

#: Table 2 of the paper: expansion, output channels, blocks, stride of the first block.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM_CHANNELS = 32
LAST_CHANNELS = 1280


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; a shortcut where the shape is kept."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [*conv_norm(in_channels, hidden, 1), nn.ReLU6()]
        layers += [*conv_norm(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        layers += conv_norm(hidden, out_channels, 1)
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """[N, in_channels, H, W] -> features at 1/2, 1/4, 1/8, 1/16 and 1/32, with 16, 24, 32, 96 and 1280 channels.

    Each feature is the last one at its size. Keys are torchvision's ``features.*``, without its classifier.
    """

    channels = (16, 24, 32, 96, LAST_CHANNELS)

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Sequential(*conv_norm(in_channels, STEM_CHANNELS, 3, stride=2), nn.ReLU6())]
        in_channels = STEM_CHANNELS
        #: Index of the last block before each stride, that is of each pyramid level.
        self.level_ends: list[int] = []
        for expansion, out_channels, repeats, stride in STAGES:
            if stride == 2:
                self.level_ends.append(len(blocks) - 1)
            for index in range(repeats):
                blocks.append(InvertedResidual(in_channels, out_channels, stride if index == 0 else 1, expansion))
                in_channels = out_channels
        blocks.append(nn.Sequential(*conv_norm(in_channels, LAST_CHANNELS, 1), nn.ReLU6()))
        self.level_ends.append(len(blocks) - 1)
        self.features = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pyramid = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self.level_ends:
                pyramid.append(x)
        return tuple(pyramid)
