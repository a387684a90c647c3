from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from binmat.data.inference import matte_frames
from binmat.data.mask_picture import ACTIVE, FrameMask, mask_picture, with_masks
from binmat.errors import InputError
from binmat.model_defs.rvm import RVM
from binmat.transforms.convert import convert


def test_mask_alpha_and_shares_are_those_of_the_frame():
    network = convert(RVM(), "bnn", settings=["decoder=sab"]).eval()
    mask = torch.zeros(1, 1, 4, 6)
    mask[..., :3] = 1
    network.get_submodule("decoder.decode4.conv_mask").forward = lambda alpha: mask
    frames = [torch.rand(1, 3, 64, 96) for _ in range(2)]
    masks: list[FrameMask] = []
    first, second = with_masks(network, matte_frames(network, frames), masks)
    shown, last = masks
    with torch.no_grad():
        alone = network(frames[0])
        after = network(frames[1], *alone[-4:])
    torch.testing.assert_close(first.alpha, alone[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(second.alpha, after[1], rtol=0, atol=1e-5)
    large = F.interpolate(mask, size=(64, 96), mode="bilinear", align_corners=False)
    assert torch.equal(shown.mask, large)
    assert last.levels.keys() == shown.levels.keys()
    assert next(iter(shown.levels)) == "decoder.decode3.conv"
    assert len(shown.levels) == 10
    # Three of six columns, and half a cell of fading towards the fourth.
    assert shown.levels["decoder.decode0.conv"] == pytest.approx((48 + 8) / 96)
    picture = mask_picture(frames[0], first.alpha, shown)
    assert picture.width >= 3 * 96
    inside, outside = (picture.getpixel((8 + 2 * (96 + 8) + x, 18 + 32)) for x in (20, 90))
    source = [round(float(v) * 255) for v in frames[0][0, :, 32, 90]]
    assert list(outside) == pytest.approx(source, abs=1)
    tinted = [0.4 * float(v) * 255 + 0.6 * a for v, a in zip(frames[0][0, :, 32, 20], ACTIVE, strict=True)]
    assert list(inside) == pytest.approx(tinted, abs=1)


def test_a_dense_decoder_has_no_mask_to_show():
    with pytest.raises(InputError, match=r"rvm_mobilenetv3 has no mask to show: .*decoder=sab"):
        with_masks(RVM(), [], [])
