"""BGMv2's decoder, after DeepLabV3+ with convolutions at full size too (Lin et al., CVPR 2021, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Decoder(nn.Module):
    """Four enlargements, each to the size of an encoder's feature, which joins before a 3x3 convolution.

    channels: of the ASPP's result and of the features at 1/8, 1/4 and 1/2 and the pictures. Returns [N, outputs, H, W].
    """

    widths = (128, 64, 48)

    def __init__(self, channels: tuple[int, int, int, int, int], outputs: int) -> None:
        super().__init__()
        deepest, *skips = channels
        inputs = [deepest, *self.widths]
        for number, width in enumerate(self.widths, start=1):
            conv = nn.Conv2d(inputs[number - 1] + skips[number - 1], width, kernel_size=3, padding=1, bias=False)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", nn.BatchNorm2d(width))
            self.add_module(f"relu{number}", nn.ReLU())
        self.conv4 = nn.Conv2d(inputs[3] + skips[3], outputs, kernel_size=3, padding=1)

    def forward(self, x: Tensor, skips: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """skips: the features at 1/8, 1/4 and 1/2, and the pictures."""
        for number, skip in enumerate(skips, start=1):
            x = F.interpolate(x, size=(skip.shape[2], skip.shape[3]), mode="bilinear", align_corners=False)
            x = self.get_submodule(f"conv{number}")(torch.cat([x, skip], 1))
            if number < len(skips):
                x = self.get_submodule(f"relu{number}")(self.get_submodule(f"bn{number}")(x))
        return x
