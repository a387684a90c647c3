"""The layers of PAM (Liu et al., AAAI 2025): its backbone's blocks and its path learning structure."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binmat.nn.conv_norm import conv_norm_relu

#: Width of the cost constraint feature F^c.
CONSTRAINT_FEATURES = 32


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut: the regular convolutions of the backbone's lower levels.

    [N, C, H, W] -> the same shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(x + self.norm2(self.conv2(y)))


class DepthwiseModule(nn.Module):
    """Large-kernel depthwise convolution, pointwise expansion, pointwise projection, with a shortcut.

    The depthwise convolution module of the backbone's higher levels. [N, C, H, W] -> the same shape. The paper gives
    neither kernel nor width: 7x7 and an expansion of 4 here.
    """

    def __init__(self, channels: int, kernel_size: int = 7, expansion: int = 4) -> None:
        super().__init__()
        hidden = channels * expansion
        self.depthwise = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False
        )
        self.norm1 = nn.BatchNorm2d(channels)
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.relu = nn.ReLU()
        self.project = nn.Conv2d(hidden, channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.depthwise(x))
        y = self.relu(self.norm2(self.expand(y)))
        return x + self.norm3(self.project(y))


class PyramidPooling(nn.Module):
    """Pyramid pooling (Zhao et al., CVPR 2017): average pools on 1x1, 2x2, 3x3 and 6x6 grids beside the input.

    [N, C, H, W] -> the same shape. The pooled branches have a bias in place of batch norm, which has no statistics
    to learn from on a 1x1 grid when the batch is a single image.
    """

    GRIDS = (1, 2, 3, 6)

    def __init__(self, channels: int) -> None:
        super().__init__()
        pooled = channels // len(self.GRIDS)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(grid), nn.Conv2d(channels, pooled, 1), nn.ReLU()) for grid in self.GRIDS
        )
        self.fuse = conv_norm_relu(channels + pooled * len(self.GRIDS), channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        pooled = [F.interpolate(branch(x), size=size, mode="bilinear", align_corners=False) for branch in self.branches]
        return self.fuse(torch.cat((x, *pooled), 1))


class ChannelAttention(nn.Module):
    """The half of a path selection layer that refines the features (Eq. 3).

    F^gs = ReLU(Conv(Avgpool(F^s))), F^rf = F^s * Sigmoid(Conv(F^gs)).
    F^s [N, C, H, W] -> (F^rf [N, C, H, W], F^gs [N, C / 4, 1, 1]). Every path runs it.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.relu = nn.ReLU()
        self.excite = nn.Conv2d(channels // 4, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        semantics = self.relu(self.squeeze(self.pool(x)))
        return x * self.sigmoid(self.excite(semantics)), semantics


class PathEstimator(nn.Module):
    """The half of a path selection layer that estimates the path (Eq. 3): Q^e = MLP(Concat(F^gs, F^c)).

    semantics [N, C / 4, 1, 1] and constraint [N, CONSTRAINT_FEATURES] -> unnormalised log-probabilities [N, 2] of
    bypassing (index 0) and running (index 1) the layers that follow.
    """

    def __init__(self, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels // 4 + CONSTRAINT_FEATURES, hidden)
        self.relu = nn.ReLU()
        self.out = nn.Linear(hidden, 2)

    def forward(self, semantics: Tensor, constraint: Tensor) -> Tensor:
        x = torch.cat((semantics.flatten(1), constraint), 1)
        return self.out(self.relu(self.hidden(x)))


class ConnectLayer(nn.Module):
    """The learnable connect layer that stands in for bypassed layers (Eq. 4).

    F^des = Conv(ReLU(Conv(F^src))) + F^src with 1x1 convolutions; [N, C, H, W] -> the same shape. The paper does not
    give the width between them: C / 4 here.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 4, 1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.relu(self.conv1(x))) + x


class AdaptiveStage(nn.Module):
    """A path selection layer and what it chooses between: ``layers`` (bit 1) and ``connect`` (bit 0).

    With ``bit`` only what that choice needs is built: the attention and one of the two branches.
    """

    def __init__(self, channels: int, depth: int, bit: str | None = None) -> None:
        super().__init__()
        self.attention = ChannelAttention(channels)
        if bit is None:
            self.estimator = PathEstimator(channels)
        if bit != "0":
            self.layers = nn.Sequential(*(DepthwiseModule(channels) for _ in range(depth)))
        if bit != "1":
            self.connect = ConnectLayer(channels)

    def branch(self, bit: str) -> nn.Module:
        """What the features pass where the path has this bit."""
        return self.layers if bit == "1" else self.connect
