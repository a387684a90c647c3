"""MobileNetV2 as a feature pyramid (Sandler et al., CVPR 2018)."""

from __future__ import annotations

from torch import Tensor, nn

from binmat.nn.conv_norm import conv_norm

#: Table 2 of the paper: expansion, output channels, blocks, stride of the first block.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM_CHANNELS = 32
LAST_CHANNELS = 1280


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; a shortcut where the shape is kept.

    in_rows: whether each convolution, its norm and its activation are one module, as torchvision has them
    (``conv.0.0``). MODNet's checkpoints have all layers of the block in one row (``conv.0``).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expansion: int,
        dilation: int = 1,
        in_rows: bool = False,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        rows: list[list[nn.Module]] = []
        if expansion > 1:
            rows.append([*conv_norm(in_channels, hidden, 1), nn.ReLU6()])
        rows.append([*conv_norm(hidden, hidden, 3, stride, dilation, groups=hidden), nn.ReLU6()])
        front = [nn.Sequential(*row) for row in rows] if in_rows else [layer for row in rows for layer in row]
        self.conv = nn.Sequential(*front, *conv_norm(hidden, out_channels, 1))
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(nn.Module):
    """[N, in_channels, H, W] -> features at 1/2, 1/4, 1/8, 1/16 and 1/32, with 16, 24, 32, 96 and 1280 channels.

    Each feature is the last one at its size. Keys are MODNet's: torchvision's ``features.*``, each block in one row.

    dilated: BGMv2's form. The stages behind 1/16 keep that size, and the blocks behind their first one dilate by 2; the
    last 1x1 convolution is left out. Features at 1/2 to 1/16 with 16, 24, 32 and 320 channels; torchvision's keys.
    """

    channels = (16, 24, 32, 96, LAST_CHANNELS)
    dilated_channels = (16, 24, 32, 320)

    def __init__(self, in_channels: int = 3, dilated: bool = False) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Sequential(*conv_norm(in_channels, STEM_CHANNELS, 3, stride=2), nn.ReLU6())]
        channels, reduced, dilation = STEM_CHANNELS, 2, 1
        #: Index of the last block before each stride, that is of each pyramid level.
        self.level_ends: list[int] = []
        for expansion, out_channels, repeats, stage_stride in STAGES:
            stride = 1 if dilated and reduced == 16 else stage_stride
            if stride == 2:
                self.level_ends.append(len(blocks) - 1)
            for index in range(repeats):
                first = stride if index == 0 else 1
                blocks.append(InvertedResidual(channels, out_channels, first, expansion, dilation, in_rows=dilated))
                channels = out_channels
                if stride != stage_stride:
                    dilation = 2  # From the second block on: the first still filters the grid of the stage before.
            reduced *= stride
        if not dilated:
            blocks.append(nn.Sequential(*conv_norm(channels, LAST_CHANNELS, 1), nn.ReLU6()))
        self.level_ends.append(len(blocks) - 1)
        self.features = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pyramid = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self.level_ends:
                pyramid.append(x)
        return tuple(pyramid)
