from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from binmat.nn.guided_filter import DeepGuidedFilter, FastGuidedFilter

FILTERS = [DeepGuidedFilter, FastGuidedFilter]


def guide(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, dtype=torch.float64)


@pytest.mark.parametrize("kind", FILTERS)
@given(fine=st.tuples(st.integers(1, 23), st.integers(1, 23)), base=st.tuples(st.integers(1, 11), st.integers(1, 11)))
def test_any_size_is_carried_to_any_other(kind, fine, base):
    refiner = kind().double().eval()
    hidden = torch.rand(1, 16, *base, dtype=torch.float64)
    fgr, pha = refiner(guide(*fine), guide(*base), guide(*base), guide(*base)[:, :1], hidden)
    assert fgr.shape == (1, 3, *fine)
    assert pha.shape == (1, 1, *fine)
    assert fgr.isfinite().all() and pha.isfinite().all()


def test_a_matte_that_is_linear_in_its_guide_stays_so_at_full_size():
    fine = guide(32, 48)
    base = F.avg_pool2d(fine, 4)
    grey, fine_grey = base.mean(1, keepdim=True), fine.mean(1, keepdim=True)
    refiner = FastGuidedFilter(eps=1e-12).double()
    fgr, pha = refiner(fine, base, 0.5 * base - 0.1, 0.7 * grey + 0.2, torch.empty(0))
    inner = (..., slice(8, -8), slice(8, -8))  # windows at the border count zeros outside of the frame
    torch.testing.assert_close(fgr[inner], (0.5 * fine - 0.1)[inner], rtol=0, atol=1e-6)
    torch.testing.assert_close(pha[inner], (0.7 * fine_grey + 0.2)[inner], rtol=0, atol=1e-6)


def test_fast_statistics_are_those_of_the_window():
    base, fgr, pha = guide(3, 3), guide(3, 3), guide(3, 3)[:, :1]
    _, out = FastGuidedFilter(eps=0.1).double()(base, base, fgr, pha, torch.empty(0))
    # At the middle pixel the window is the whole frame.
    grey = base.mean(1)
    slope = ((grey * pha[:, 0]).mean() - grey.mean() * pha.mean()) / ((grey * grey).mean() - grey.mean() ** 2 + 0.1)
    expected = slope * grey[0, 1, 1] + pha.mean() - slope * grey.mean()
    torch.testing.assert_close(out[0, 0, 1, 1], expected, rtol=0, atol=1e-12)


def test_deep_filter_has_the_official_keys_and_a_fixed_box():
    refiner = DeepGuidedFilter(16)
    keys = [key for key in refiner.state_dict() if "running" not in key and "tracked" not in key]
    assert keys == [
        "box_filter.weight",
        "conv.0.weight",
        "conv.1.weight",
        "conv.1.bias",
        "conv.3.weight",
        "conv.4.weight",
        "conv.4.bias",
        "conv.6.weight",
        "conv.6.bias",
    ]
    weight = refiner.box_filter.weight
    assert torch.equal(weight, torch.full((4, 1, 3, 3), 1 / 9))
    assert not weight.requires_grad
    assert not FastGuidedFilter().state_dict()


def test_deep_filter_without_slope_is_the_box_mean():
    refiner = DeepGuidedFilter(2).double().eval()
    torch.nn.init.zeros_(refiner.conv[6].weight)
    torch.nn.init.zeros_(refiner.conv[6].bias)
    base, fgr, pha = guide(5, 6), guide(5, 6), guide(5, 6)[:, :1]
    out = refiner(base, base, fgr, pha, torch.rand(1, 2, 5, 6, dtype=torch.float64))
    for value, source in zip(out, (fgr, pha), strict=True):
        # The box weights are the float32 nearest to 1/9.
        torch.testing.assert_close(value, F.avg_pool2d(source, 3, 1, padding=1), rtol=0, atol=1e-7)
