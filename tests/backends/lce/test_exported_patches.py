"""BGMv2's patches in a model file: chosen, cut out, computed and put back by LCE as by torch."""

from __future__ import annotations

import pytest
import torch
from lce_support import assert_same
from official_checkpoints import filled
from torch import Tensor

from binmat.model_defs.patch_refiner import PatchRefiner


@pytest.mark.parametrize("pixels", [16, 160, 10_000])
def test_refined_patches(pixels: int) -> None:
    refiner = filled(PatchRefiner())

    def refined(pictures: Tensor, hidden: Tensor, error: Tensor) -> tuple[Tensor, ...]:
        return refiner.sampled(pictures, hidden[:, :1], hidden[:, 1:4], hidden, error, pixels)

    torch.manual_seed(0)
    error = (torch.rand(1, 1, 4, 6) - 0.5).clamp(min=0)  # Half of them are equal.
    inputs = torch.rand(1, 6, 32, 48), torch.rand(1, 32, 4, 6), error
    assert_same(refined, *inputs)
    chosen = refined(*inputs)[2]
    assert 0 < chosen.sum() <= pixels / 16
