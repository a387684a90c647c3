"""BGMv2's refiner: the coarse matte at full size, computed anew everywhere or in patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.nn.patches import SIDE, ChosenPatches, CutPatches, LargestErrors, PastedPatches

#: Channels of the coarse hidden features.
HIDDEN = 32
#: Pixels that two 3x3 convolutions take from each side.
_BORDER = 2
#: Margin of a patch at half size: the first two convolutions' border, and half of the last two's.
_HALF_MARGIN = _BORDER + _BORDER // 2


class PatchRefiner(nn.Module):
    """Alpha and foreground residual at full size (Lin et al., CVPR 2021, section 3.2).

    Two 3x3 convolutions at half size on the coarse result and the two pictures, doubled to full size by the nearest
    pixel, and two more beside the two pictures. No convolution pads: zeros surround the pictures. So a patch of 4x4
    pixels that is computed alone, from 8x8 cells of the half size, is what computing everything gives there.

    pictures: [N, 6, H, W], image and background; H and W multiples of 4. alpha, residual, hidden: coarse, [N, 1, h, w],
    [N, 3, h, w], [N, 32, h, w]. Results: alpha [N, 1, H, W] and residual [N, 3, H, W], not clamped.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(HIDDEN + 4 + 6, 24, kernel_size=3, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(24, 16, kernel_size=3, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(16 + 6, 12, kernel_size=3, bias=False)
        self.bn3 = nn.BatchNorm2d(12)
        self.relu3 = nn.ReLU()
        self.conv4 = nn.Conv2d(12, 4, kernel_size=3)
        self.largest_errors = LargestErrors()
        self.chosen_patches = ChosenPatches()
        self.cut_half = CutPatches(SIDE // 2, _HALF_MARGIN)
        self.cut = CutPatches(SIDE, _BORDER)
        self.paste = PastedPatches()

    def everywhere(self, pictures: Tensor, alpha: Tensor, residual: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Every pixel computed anew."""
        halves = F.pad(_halves(pictures, alpha, residual, hidden), [_HALF_MARGIN] * 4)
        out = self._refine(halves, F.pad(pictures, [_BORDER] * 4))
        return out[:, :1], out[:, 1:]

    def sampled(
        self, pictures: Tensor, alpha: Tensor, residual: Tensor, hidden: Tensor, error: Tensor, pixels: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The ``pixels // 16`` patches with the largest errors; also which, [N, 1, H/4, W/4] of 0 and 1.

        error: coarse, [N, 1, h, w] in [0, 1].
        """
        chosen = self.largest_errors(_quarters(error, pictures), pixels)
        places = self.chosen_patches(chosen, pixels)
        return self._at(chosen, places, pictures, alpha, residual, hidden)

    def above(
        self, pictures: Tensor, alpha: Tensor, residual: Tensor, hidden: Tensor, error: Tensor, threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The patches whose error is above the threshold, in [0, 1]; also which, as :meth:`sampled`."""
        chosen = (_quarters(error, pictures) > threshold).to(error.dtype)
        return self._at(chosen, self.chosen_patches(chosen), pictures, alpha, residual, hidden)

    def _at(
        self, chosen: Tensor, places: Tensor, pictures: Tensor, alpha: Tensor, residual: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        halves = self.cut_half(_halves(pictures, alpha, residual, hidden), places)
        patches = self._refine(halves, self.cut(pictures, places))
        coarse = _resize(torch.cat([alpha, residual], 1), pictures.shape[2], pictures.shape[3])
        out = self.paste(coarse, patches, places, chosen)
        return out[:, :1], out[:, 1:], chosen

    def _refine(self, halves: Tensor, pictures: Tensor) -> Tensor:
        """Maps with their margins at half size, and the pictures with theirs -> alpha and residual without margins."""
        x = self.relu1(self.bn1(self.conv1(halves)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        x = self.relu3(self.bn3(self.conv3(torch.cat([x, pictures], 1))))
        return self.conv4(x)


def _halves(pictures: Tensor, alpha: Tensor, residual: Tensor, hidden: Tensor) -> Tensor:
    """What the first convolution reads, at half the size of the pictures."""
    height, width = pictures.shape[2] // 2, pictures.shape[3] // 2
    coarse = _resize(torch.cat([hidden, alpha, residual], 1), height, width)
    return torch.cat([coarse, _resize(pictures, height, width)], 1)


def _quarters(error: Tensor, pictures: Tensor) -> Tensor:
    return _resize(error, pictures.shape[2] // SIDE, pictures.shape[3] // SIDE)


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
