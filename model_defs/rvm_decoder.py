"""RVM's head and recurrent decoder: LR-ASPP, bottleneck, three upsampling blocks, output block, projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binmat.nn.conv_gru import ConvGRU
from binmat.nn.conv_norm import conv_norm_relu


def crop_to(x: Tensor, like: Tensor) -> Tensor:
    """Cut the last row or column that doubling an odd size left over."""
    return x[:, :, : like.shape[2], : like.shape[3]]


class LRASPP(nn.Module):
    """Lite reduced atrous spatial pyramid pooling (MobileNetV3, section 6.4): features gated by their global mean."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.aspp1 = conv_norm_relu(in_channels, out_channels, kernel_size=1)
        self.aspp2 = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.aspp1(x) * self.aspp2(x)


class BottleneckBlock(nn.Module):
    """Memory at 1/16: the second half of the channels passes a ConvGRU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gru = ConvGRU(channels // 2)

    def forward(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.chunk(2, dim=1)
        b, r = self.gru(b, r)
        return torch.cat([a, b], dim=1), r


class UpsamplingBlock(nn.Module):
    """Double the size, merge the encoder's features and the reduced frame, pass half the channels through a ConvGRU."""

    def __init__(self, in_channels: int, skip_channels: int, src_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.conv = conv_norm_relu(in_channels + skip_channels + src_channels, out_channels)
        self.gru = ConvGRU(out_channels // 2)

    def forward(self, x: Tensor, skip: Tensor, src: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        x = crop_to(self.upsample(x), src)
        x = self.conv(torch.cat([x, skip, src], dim=1))
        a, b = x.chunk(2, dim=1)
        b, r = self.gru(b, r)
        return torch.cat([a, b], dim=1), r


class OutputBlock(nn.Module):
    """Back to the frame's size, where there are neither encoder features to merge nor memory."""

    def __init__(self, in_channels: int, src_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.conv = nn.Sequential(
            *conv_norm_relu(in_channels + src_channels, out_channels),
            *conv_norm_relu(out_channels, out_channels),
        )

    def forward(self, x: Tensor, src: Tensor) -> Tensor:
        x = crop_to(self.upsample(x), src)
        return self.conv(torch.cat([x, src], dim=1))


class RecurrentDecoder(nn.Module):
    """From f1..f3, the head's features and the memory r1..r4 to features at the frame's size.

    skip_channels: channels of f1, f2, f3 and of the head's output; out_channels: of decode3, 2, 1, 0. The states have
    half the channels of the block they belong to: r4 of the head's, r3..r1 of decode3..1's.
    """

    def __init__(self, skip_channels: tuple[int, int, int, int], out_channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        f1, f2, f3, head = skip_channels
        d3, d2, d1, d0 = out_channels
        self.avgpool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.decode4 = BottleneckBlock(head)
        self.decode3 = UpsamplingBlock(head, f3, 3, d3)
        self.decode2 = UpsamplingBlock(d3, f2, 3, d2)
        self.decode1 = UpsamplingBlock(d2, f1, 3, d1)
        self.decode0 = OutputBlock(d1, 3, d0)
        #: Channels of r1, r2, r3, r4.
        self.state_channels = (d1 // 2, d2 // 2, d3 // 2, head // 2)

    def forward(self, src: Tensor, features: tuple[Tensor, ...], states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """src: [B*T, 3, H, W]; features: f1..f3 and the head's, [B*T, ...]; states: r1..r4, [B, ...].

        Returns features and the new r1..r4.
        """
        f1, f2, f3, f4 = features
        r1, r2, r3, r4 = states
        half = self.avgpool(src)
        quarter = self.avgpool(half)
        eighth = self.avgpool(quarter)
        x, r4 = self.decode4(f4, r4)
        x, r3 = self.decode3(x, f3, eighth, r3)
        x, r2 = self.decode2(x, f2, quarter, r2)
        x, r1 = self.decode1(x, f1, half, r1)
        return self.decode0(x, src), r1, r2, r3, r4


class Projection(nn.Module):
    """1x1 convolution to the output channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
