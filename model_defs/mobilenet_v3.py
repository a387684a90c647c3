"""MobileNetV3-Large as RVM's encoder: four feature maps, the last stage dilated instead of strided."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from binmat.nn import imagenet


class _Row(NamedTuple):
    """A row of MobileNetV3-Large's table (Howard et al., ICCV 2019, Table 1); squeeze 0 means no squeeze-and-excite."""

    kernel_size: int
    expanded: int
    out: int
    squeeze: int
    activation: type[nn.Module]
    stride: int = 1
    dilation: int = 1


_STEM_CHANNELS = 16
_TABLE = (
    _Row(3, 16, 16, 0, nn.ReLU),
    _Row(3, 64, 24, 0, nn.ReLU, stride=2),
    _Row(3, 72, 24, 0, nn.ReLU),
    _Row(5, 72, 40, 24, nn.ReLU, stride=2),
    _Row(5, 120, 40, 32, nn.ReLU),
    _Row(5, 120, 40, 32, nn.ReLU),
    _Row(3, 240, 80, 0, nn.Hardswish, stride=2),
    _Row(3, 200, 80, 0, nn.Hardswish),
    _Row(3, 184, 80, 0, nn.Hardswish),
    _Row(3, 184, 80, 0, nn.Hardswish),
    _Row(3, 480, 112, 120, nn.Hardswish),
    _Row(3, 672, 112, 168, nn.Hardswish),
    _Row(5, 672, 160, 168, nn.Hardswish, dilation=2),
    _Row(5, 960, 160, 240, nn.Hardswish, dilation=2),
    _Row(5, 960, 160, 240, nn.Hardswish, dilation=2),
)
_HEAD_CHANNELS = 960
#: Index of the first layer of `features` that no longer belongs to f1, f2, f3.
_STAGE_ENDS = (2, 4, 7)


class ConvNormAct(nn.Sequential):
    """Convolution without bias that keeps the size at stride 1, batch norm and an activation (none: linear)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        activation: type[nn.Module] | None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        padding = (kernel_size - 1) // 2 * dilation
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False),
            nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from the channels' means (Hu et al., CVPR 2018), with a hard sigmoid."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, kernel_size=1)
        self.fc2 = nn.Conv2d(squeezed, channels, kernel_size=1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return x * self.scale_activation(scale)


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter each channel, optionally squeeze and excite, project by a linear 1x1."""

    def __init__(self, in_channels: int, row: _Row) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if row.expanded != in_channels:
            layers.append(ConvNormAct(in_channels, row.expanded, 1, row.activation))
        layers.append(
            ConvNormAct(
                row.expanded,
                row.expanded,
                row.kernel_size,
                row.activation,
                stride=row.stride,
                dilation=row.dilation,
                groups=row.expanded,
            )
        )
        if row.squeeze:
            layers.append(SqueezeExcitation(row.expanded, row.squeeze))
        layers.append(ConvNormAct(row.expanded, row.out, 1, None))
        self.block = nn.Sequential(*layers)
        self.has_shortcut = row.stride == 1 and in_channels == row.out

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(x)
        return x + out if self.has_shortcut else out


class MobileNetV3(nn.Module):
    """MobileNetV3-Large with torchvision's key names; its last stage keeps 1/16 and dilates (RVM, section 3.2).

    Takes RGB in [0, 1], [N, 3, H, W], and normalises it by ImageNet's statistics. Returns f1..f4 of 16, 24, 40 and
    960 channels at 1/2, 1/4, 1/8 and 1/16 of the size, rounded up.
    """

    channels = (16, 24, 40, _HEAD_CHANNELS)
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Not persistent: official checkpoints do not hold them.
        self.register_buffer("mean", torch.tensor(imagenet.MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(imagenet.STD).view(1, 3, 1, 1), persistent=False)
        layers: list[nn.Module] = [ConvNormAct(3, _STEM_CHANNELS, 3, nn.Hardswish, stride=2)]
        channels = _STEM_CHANNELS
        for row in _TABLE:
            layers.append(InvertedResidual(channels, row))
            channels = row.out
        layers.append(ConvNormAct(channels, _HEAD_CHANNELS, 1, nn.Hardswish))
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = (x - self.mean) / self.std
        stages = []
        for index, layer in enumerate(self.features):
            if index in _STAGE_ENDS:
                stages.append(x)
            x = layer(x)
        f1, f2, f3 = stages
        return f1, f2, f3, x
