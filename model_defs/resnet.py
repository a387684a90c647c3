"""ResNet as an encoder: four feature maps, the last stages dilated instead of strided."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from binmat.nn.conv_norm import conv_norm

_EXPANSION = 4


class Bottleneck(nn.Module):
    """Residual block 1x1, 3x3 (which takes the stride), 1x1 (He et al., CVPR 2016)."""

    def __init__(self, in_channels: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        out_channels = width * _EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu3 = nn.ReLU()
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(*conv_norm(in_channels, out_channels, kernel_size=1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu3(self.bn3(self.conv3(out)) + shortcut)


def stage(
    in_channels: int,
    width: int,
    blocks: int,
    stride: int = 1,
    dilation: int = 1,
    block: type[Bottleneck] = Bottleneck,
    first_dilation: int = 1,
) -> nn.Sequential:
    """A stage of bottlenecks.

    first_dilation: of the first block, which still filters the grid of the stage before.
    """
    rest = (block(width * _EXPANSION, width, dilation=dilation) for _ in range(blocks - 1))
    return nn.Sequential(block(in_channels, width, stride, first_dilation), *rest)


class ResNet(nn.Module):
    """ResNet with torchvision's key names and no classifier; its last stages dilate instead of reducing the map.

    in_channels: of the image, which is not normalised here. blocks: per stage, (3, 4, 6, 3) for ResNet-50 and
    (3, 4, 23, 3) for ResNet-101. stride: of the last feature map, 16 or 8.

    [N, in_channels, H, W] -> f1..f4 of 64, 256, 512 and 2048 channels at 1/2, 1/4, 1/8 and 1/``stride`` of the size,
    rounded up.
    """

    channels = (64, 256, 512, 2048)

    def __init__(
        self, in_channels: int = 3, blocks: tuple[int, int, int, int] = (3, 4, 6, 3), stride: Literal[8, 16] = 16
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = stage(64, 64, blocks[0])
        self.layer2 = stage(256, 128, blocks[1], stride=2)
        if stride == 16:
            self.layer3 = stage(512, 256, blocks[2], stride=2)
            self.layer4 = stage(1024, 512, blocks[3], dilation=2)
        else:
            self.layer3 = stage(512, 256, blocks[2], dilation=2)
            self.layer4 = stage(1024, 512, blocks[3], dilation=4, first_dilation=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        f1 = self.relu(self.bn1(self.conv1(x)))
        f2 = self.layer1(self.maxpool(f1))
        f3 = self.layer2(f2)
        return f1, f2, f3, self.layer4(self.layer3(f3))
