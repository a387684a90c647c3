"""Shrinkable Binarized Blocks: BiMatting's encoder (Qin et al., NeurIPS 2023, Sec. 3.2, Table 4).

They are built from torch.nn's convolutions and batch norms and from RPReLU; a policy decides what becomes 1-bit. Every
convolution has a shortcut of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from binmat.errors import RecipeError
from binmat.nn import imagenet
from binmat.nn.conv_norm import conv_norm
from binmat.nn.rprelu import RPReLU

BlockShortcut = Literal["paper", "official"]


def _pool() -> nn.AvgPool2d:
    """Halves the size, rounded up, as a 3x3 convolution of stride 2 does."""
    return nn.AvgPool2d(2, 2, ceil_mode=True)


class SubSBB(nn.Module):
    """3x3 and 1x1 convolution, each with batch norm, shortcut and RPReLU (Eq. 5 and 6).

    x' = act1(norm1(conv3(x)) + x), o = act2(norm2(conv1(x')) + s(x')). The 3x3 keeps the channels and takes dilation
    and stride; at stride 2 its shortcut is average pooled. The 1x1 decides the channels:

    - half as many (Sub-SBB 1): s(x') is the mean of the two halves of x';
    - as many (2): s(x') = x';
    - a multiple, such as twice as many (3): s(x') repeats x'. The paper's concatenated branches are one convolution
      with concatenated weights.

    x: [N, in_channels, H, W] to [N, out_channels, H', W'], H' and W' divided by the stride, rounded up.
    Raises RecipeError for other channel numbers or strides.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        if out_channels < 1 or (out_channels % in_channels and in_channels != 2 * out_channels):
            raise RecipeError(
                f"a sub-SBB cannot go from {in_channels} to {out_channels} channels: "
                "halve them, keep them or multiply them by a whole number"
            )
        if stride not in (1, 2):
            raise RecipeError(f"a sub-SBB cannot have stride {stride}: choose 1 or 2")
        self.factor = out_channels / in_channels
        self.conv3 = nn.Conv2d(in_channels, in_channels, 3, stride, dilation, dilation, bias=False)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.pool = _pool() if stride == 2 else None
        self.act1 = RPReLU(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.act2 = RPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.pool is None else self.pool(x)
        x = self.act1(self.norm1(self.conv3(x)) + shortcut)
        y = self.norm2(self.conv1(x))
        if self.factor > 1:
            x = torch.cat([x] * int(self.factor), dim=1)
        elif self.factor < 1:
            first, second = x.chunk(2, dim=1)
            x = (first + second) / 2
        return self.act2(y + x)


class SBB(nn.Module):
    """Three sub-SBBs: head to out_channels, middle to twice as many, tail back; and a shortcut (Eq. 7).

    stride: of the middle. dilation: of all three.
    shortcut: ``paper`` adds the head's output to the tail's, average pooled at stride 2. ``official``, as the authors'
    code does, adds it only at stride 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        dilation: int = 1,
        shortcut: BlockShortcut = "official",
    ) -> None:
        super().__init__()
        if shortcut not in ("paper", "official"):
            raise RecipeError(f"the shortcut of an SBB cannot be '{shortcut}': choose paper or official")
        self.head = SubSBB(in_channels, out_channels, dilation=dilation)
        self.middle = SubSBB(out_channels, 2 * out_channels, stride, dilation)
        self.tail = SubSBB(2 * out_channels, out_channels, dilation=dilation)
        self.pool = _pool() if stride == 2 else None
        self.has_shortcut = stride == 2 or shortcut == "paper"

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        o = self.tail(self.middle(x))
        if not self.has_shortcut:
            return o
        return o + (x if self.pool is None else self.pool(x))


@dataclass(frozen=True)
class SBBRow:
    """One block of a plan: as many channels as the block before or twice as many, stride 1 or 2, dilation."""

    channels: int
    stride: int = 1
    dilation: int = 1


@dataclass(frozen=True)
class SBBPlan:
    """An encoder of SBBs. The default is Table 4: features of 16, 32, 64 and 1024 channels at 1/2, 1/4, 1/8, 1/16.

    stem: channels of the first convolution, 3x3 with stride 2. tail: channels of the sub-SBBs behind the last block.
    features: after which blocks features are read, 0 being the stem; the encoder's end is always the last feature.
    shortcut: of the blocks, see :class:`SBB`.
    normalise: subtract ImageNet's mean and divide by its deviation, for frames in [0, 1].
    inputs: channels of what the encoder reads, 3 for frames.
    """

    stem: int = 16
    blocks: tuple[SBBRow, ...] = (SBBRow(32, 2), SBBRow(64, 2), SBBRow(64), SBBRow(128, 2), SBBRow(128))
    tail: tuple[int, ...] = (256, 1024)
    features: tuple[int, ...] = (0, 1, 3)
    shortcut: BlockShortcut = "official"
    normalise: bool = True
    inputs: int = 3

    def __post_init__(self) -> None:
        if list(self.features) != sorted(set(self.features)) or not set(self.features) <= set(range(len(self.blocks))):
            raise RecipeError(
                f"an SBB plan of {len(self.blocks)} blocks cannot have features {list(self.features)}: "
                f"name ascending blocks from 0 (the stem) to {len(self.blocks) - 1}"
            )
        if self.normalise and self.inputs != 3:
            raise RecipeError(
                f"an SBB encoder that reads {self.inputs} channels cannot normalise them: "
                "ImageNet's statistics are those of 3; set normalise to false"
            )


class SBBEncoder(nn.Module):
    """An encoder of SBBs by a plan: [N, inputs, H, W] to a tuple of features, finest first.

    channels, strides: of the features; a feature's size is the frame's divided by its stride, rounded up.
    Raises RecipeError for a plan whose channels do not follow from each other.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, plan: SBBPlan | None = None) -> None:
        super().__init__()
        self.plan = plan = plan or SBBPlan()
        if plan.normalise:
            # Not persistent, as in RVM's MobileNetV3.
            self.register_buffer("mean", torch.tensor(imagenet.MEAN).view(1, 3, 1, 1), persistent=False)
            self.register_buffer("std", torch.tensor(imagenet.STD).view(1, 3, 1, 1), persistent=False)
        self.stem = nn.Sequential(*conv_norm(plan.inputs, plan.stem, stride=2))
        self.blocks = nn.ModuleList()
        channels, stride = plan.stem, 2
        ends = [(channels, stride)]
        for row in plan.blocks:
            if row.channels not in (channels, 2 * channels):
                raise RecipeError(
                    f"an SBB cannot go from {channels} to {row.channels} channels: keep them or double them"
                )
            self.blocks.append(SBB(channels, row.channels, row.stride, row.dilation, plan.shortcut))
            channels, stride = row.channels, stride * row.stride
            ends.append((channels, stride))
        self.tail = nn.Sequential(*(SubSBB(before, after) for before, after in pairwise((channels, *plan.tail))))
        read = [*(ends[index] for index in plan.features), ((channels, *plan.tail)[-1], stride)]
        self.channels, self.strides = zip(*read, strict=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.plan.normalise:
            x = (x - self.mean) / self.std
        x = self.stem(x)
        features = [x]
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return (*(features[index] for index in self.plan.features), self.tail(x))
