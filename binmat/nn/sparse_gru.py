"""The convolutional GRU whose gates are sparse-assisted: what BiMatting makes of RVM's memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binmat.nn.conv_gru import ConvGRU
from binmat.nn.masked_path import MaskedPath
from binmat.nn.recurrence import Recurrent
from binmat.nn.shift import Shift


class SparseConvGRU(Recurrent):
    """:class:`binmat.nn.conv_gru.ConvGRU` with a masked 3x3 and a dense 1x1 path in each gate, m being the mask::

        [r, z] = m * sigmoid(ih([x, h])) + sigmoid(ih_1x1([x, h]))
        c      = m * tanh(hh([x, r * h])) + tanh(hh_1x1([x, r * h]))
        h'     = (1 - z) * h + z * c

    As in the authors' code a gate lies in (0, 2) where the mask is 1, and each convolution has a learnable shift behind
    it beside its bias, so that official checkpoints map one to one.

    x and h: [B, channels, H, W]; the context is the mask, [B, 1, H, W].
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.ih, self.ih_1x1 = _gate(2 * channels, 2 * channels, kernel_size, nn.Sigmoid)
        self.hh, self.hh_1x1 = _gate(2 * channels, channels, kernel_size, nn.Tanh)

    @classmethod
    def from_dense(cls, gru: ConvGRU) -> SparseConvGRU:
        """The GRU whose masked paths hold the very convolutions of ``gru``'s gates; the 1x1 paths start fresh."""
        ih, hh = gru.ih[0], gru.hh[0]
        assert isinstance(ih, nn.Conv2d) and isinstance(hh, nn.Conv2d)
        sparse = cls(ih.in_channels // 2, ih.kernel_size[0])
        sparse.to(ih.weight.device, ih.weight.dtype)
        sparse.ih[0], sparse.hh[0] = ih, hh
        return sparse.train(gru.training)

    def step(self, x: Tensor, h: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        mask = context[0]
        seen = torch.cat([x, h], dim=1)
        r, z = (self.ih(seen, mask) + self.ih_1x1(seen)).chunk(2, dim=1)
        seen = torch.cat([x, r * h], dim=1)
        c = self.hh(seen, mask) + self.hh_1x1(seen)
        h = (1 - z) * h + z * c
        return h, h


def _gate(
    in_channels: int, out_channels: int, kernel_size: int, function: type[nn.Module]
) -> tuple[MaskedPath, nn.Sequential]:
    wide = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    point = nn.Conv2d(in_channels, out_channels, kernel_size=1)
    return MaskedPath(wide, Shift(out_channels), function()), nn.Sequential(point, Shift(out_channels), function())
