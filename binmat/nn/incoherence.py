"""The mask of BiMatting's sparse-assisted decoder: where a coarse alpha matte is uncertain."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import SizeError

#: A cell is incoherent where halving and doubling moves it by at least this much (official code).
TOLERANCE = 0.01


class IncoherenceMask(nn.Module):
    """1 where the region alpha > 0 loses detail when it is halved and doubled again bilinearly, else 0.

    alpha: [N, 1, h, w], any range; only its sign matters, so an unclamped one gives the same mask. Returns
    [N, 1, h, w] of 0 and 1, without gradient. Raises SizeError where h or w is 1, which cannot be halved.
    Source: Qin et al., BiMatting, NeurIPS 2023, Sec. 3.3.2, after Ke et al., Mask Transfiner, CVPR 2022; the official
    code's factor 2 and tolerance 0.01.
    """

    is_leaf: ClassVar[bool] = True

    def forward(self, alpha: Tensor) -> Tensor:
        height, width = alpha.shape[2], alpha.shape[3]
        if min(height, width) < 2:
            raise SizeError(
                f"the sparse decoder's mask needs at least 2x2 coarse cells, this frame gives {height}x{width}: "
                "pass a larger frame or a larger downsample ratio"
            )
        inside = (alpha > 0).to(alpha.dtype)
        small = F.interpolate(inside, size=(height // 2, width // 2), mode="bilinear", align_corners=False)
        again = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
        return ((inside - again).abs() >= TOLERANCE).to(alpha.dtype)
