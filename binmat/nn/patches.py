"""Patches of an image: choose some by an error map, cut them out, put them back.

BGMv2 refines only the patches where its coarse matte is likely to be wrong (Lin et al., CVPR 2021, section 3.2). Each
cell of the error map stands for one patch. The layers here have no weights, and a traced graph calls them as they are.
While a graph is recorded, the number of patches may not depend on the picture. There it is the largest that is allowed.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import InputError
from binmat.nn.recording import is_recorded

#: Side of a patch at full size, in pixels.
SIDE = 4
#: Its pixels.
PIXELS = SIDE * SIDE


class LargestErrors(nn.Module):
    """The ``pixels // 16`` cells of each image with the largest errors above 0, or all of these where they are fewer.

    error: [N, 1, h, w], the map at a quarter of the size. Returns [N, 1, h, w] of 0 and 1, without gradient. Of equal
    errors the first in row order are taken. Source: official code, refine mode "sampling".
    """

    is_leaf: ClassVar[bool] = True

    def forward(self, error: Tensor, pixels: float) -> Tensor:
        errors = error.detach().flatten(1)
        count = patches_within(pixels, errors.shape[1])
        if count == 0:
            return torch.zeros_like(error)
        least = errors.topk(count, dim=1).values[:, -1:]
        above, equal = errors > least, errors == least
        left = count - above.sum(1, keepdim=True)
        chosen = (above | (equal & (equal.cumsum(1) <= left))) & (errors > 0)
        return chosen.to(error.dtype).view_as(error)


class ChosenPatches(nn.Module):
    """The places of the cells that are chosen, counted row by row over all images: int32 [P], ascending.

    chosen: [N, 1, h, w] of 0 and 1. pixels: at most so many are chosen in each image; None where nobody knows. While a
    graph is recorded there are ``pixels // 16`` places for each image, the chosen ones first; the others are computed
    in vain. Raises InputError for None then.
    """

    is_leaf: ClassVar[bool] = True

    def forward(self, chosen: Tensor, pixels: float | None = None) -> Tensor:
        cells = chosen.detach().flatten()
        if not is_recorded(cells):
            return cells.nonzero()[:, 0].int()
        if pixels is None:
            raise InputError("how many patches are refined depends on the picture: choose them by their number")
        count = chosen.shape[0] * patches_within(pixels, chosen[0].numel())
        backwards = torch.arange(cells.numel(), 0, -1, dtype=torch.int32, device=cells.device)
        # One number for each cell: searches differ in which of equal ones they find.
        rank = backwards + (cells > 0).int() * cells.numel()
        return rank.topk(count).indices.int()


class CutPatches(nn.Module):
    """Patches with some margin: [N, C, H, W] and places [P] -> [P, C, side + 2 margin, side + 2 margin].

    side: of a cell in this image. margin: pixels around it, zeros outside of the image.
    """

    is_leaf: ClassVar[bool] = True

    def __init__(self, side: int, margin: int) -> None:
        super().__init__()
        self.side, self.margin = side, margin

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        cells = [x.shape[2] // self.side, x.shape[3] // self.side]
        padded = F.pad(x, [self.margin] * 4)
        batch, channels, height, width = padded.shape
        frames, rows, columns = (torch.arange(n, device=x.device) for n in (batch, *cells))
        corners = (frames[:, None, None] * height + rows[:, None] * self.side) * width + columns * self.side
        window = torch.arange(self.side + 2 * self.margin, device=x.device)
        pixels = corners.flatten()[places][:, None, None] + window[:, None] * width + window
        return padded.permute(0, 2, 3, 1).reshape(-1, channels)[pixels].permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"side={self.side}, margin={self.margin}"


class PastedPatches(nn.Module):
    """The image with the chosen cells replaced: [N, C, H, W].

    x: [N, C, H, W]; patches: [P, C, 4, 4]; places, chosen: as :class:`ChosenPatches` takes and gives them. The gradient
    goes to the patches in their places and to the image elsewhere.
    """

    is_leaf: ClassVar[bool] = True

    def forward(self, x: Tensor, patches: Tensor, places: Tensor, chosen: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        grid = (batch, channels, height // SIDE, SIDE, width // SIDE, SIDE)
        cells = x.view(grid).permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, SIDE, SIDE)
        if is_recorded(x):
            # Model formats cannot write to places that are computed. The chosen patches come first, in order.
            known = chosen.flatten() > 0
            patch = (known.int().cumsum(0) - 1).clamp(min=0)
            cells = torch.where(known[:, None, None, None], patches[patch], cells)
        else:
            cells = cells.index_copy(0, places.long(), patches)
        folded = cells.view(batch, height // SIDE, width // SIDE, channels, SIDE, SIDE)
        return folded.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)


def patches_within(pixels: float, cells: int) -> int:
    """How many patches of an image with so many cells may be refined.

    >>> patches_within(80_000, 100_000), patches_within(80_000, 64), patches_within(15, 64)
    (5000, 64, 0)
    """
    return min(int(pixels) // PIXELS, cells)
