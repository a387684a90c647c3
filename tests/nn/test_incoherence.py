"""The incoherence mask, and what it does with nothing, everything and too little."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from binmat.errors import SizeError
from binmat.nn.incoherence import IncoherenceMask


def test_it_marks_the_border_of_a_region() -> None:
    alpha = torch.zeros(1, 1, 8, 8)
    alpha[..., 3:] = 0.2
    mask = IncoherenceMask()(alpha)
    # Columns 2 and 3 share a cell of the halved map; bilinear doubling carries its mixture one column further.
    assert mask[0, 0, 4].tolist() == [0, 1, 1, 1, 1, 0, 0, 0]


def test_two_pixels_a_cell_are_halved_and_doubled_by_hand() -> None:
    alpha = torch.tensor([[[[1.0, -1.0], [-1.0, -1.0]]]])
    # The one cell of the halved map is 1/4 everywhere: no pixel is reproduced.
    assert IncoherenceMask()(alpha).eq(1).all()


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.5])
def test_a_frame_without_a_border_has_no_incoherent_pixel(value: float) -> None:
    assert IncoherenceMask()(torch.full((2, 1, 5, 7), value)).eq(0).all()


def test_a_checkerboard_is_incoherent_everywhere() -> None:
    rows, columns = torch.meshgrid(torch.arange(6), torch.arange(8), indexing="ij")
    alpha = ((rows + columns) % 2).float()[None, None] - 0.5
    assert IncoherenceMask()(alpha).eq(1).all()


@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**16))
def test_frames_do_not_see_each_other_and_only_the_sign_counts(frames: int, height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    alpha = torch.randn(frames, 1, height, width, generator=generator, dtype=torch.float64)
    mask = IncoherenceMask()(alpha)
    assert mask.shape == alpha.shape
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    for n in range(frames):
        inside = (alpha[n : n + 1] > 0).double()
        small = F.interpolate(inside, (height // 2, width // 2), mode="bilinear")
        residue = (inside - F.interpolate(small, (height, width), mode="bilinear")).abs()
        assert torch.equal(mask[n : n + 1], (residue >= 0.01).double())
    assert torch.equal(mask, IncoherenceMask()(alpha.clamp(0, 1)))


@pytest.mark.parametrize("size", [(1, 4), (4, 1), (1, 1)])
def test_a_grid_that_cannot_be_halved_is_named(size: tuple[int, int]) -> None:
    with pytest.raises(SizeError, match=rf"2x2 coarse cells, this frame gives {size[0]}x{size[1]}: pass a larger"):
        IncoherenceMask()(torch.zeros(1, 1, *size))
