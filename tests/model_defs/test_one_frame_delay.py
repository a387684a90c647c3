"""The one-frame delay by hand-worked arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from binmat.errors import InputError, SizeError
from binmat.model_defs.one_frame_delay import OneFrameDelay, fix_flicker


def clip_of(*pixels: list[float]) -> Tensor:
    """A clip of batch 1 and one row, from each pixel's values over time."""
    return torch.tensor(pixels, dtype=torch.float64).T.reshape(1, -1, 1, 1, len(pixels))


def filtered(clip: Tensor, threshold: float = 0.1) -> Tensor:
    ofd = OneFrameDelay(threshold)
    pushed = [ofd.push(clip[:, t]) for t in range(clip.shape[1])]
    assert pushed[0] is None
    return torch.stack([*pushed[1:], ofd.flush()], 1)


@pytest.mark.parametrize(
    ("before", "matte", "after", "expected"),
    [
        (0.90, 0.20, 0.94, 0.92),  # neighbours agree, the frame between drops out
        (0.02, 0.60, 0.00, 0.01),  # the same the other way
        (0.90, 0.20, 0.70, 0.20),  # neighbours disagree: motion, not flicker
        (0.90, 0.85, 0.94, 0.85),  # close to both neighbours
        (0.50, 0.595, 0.45, 0.595),  # far from the next only
        (0.45, 0.595, 0.50, 0.595),  # far from the one before only
        (0.50, 0.625, 0.50, 0.50),  # just past the default threshold
    ],
)
def test_flicker_is_what_differs_from_two_neighbours_that_agree(
    before: float, matte: float, after: float, expected: float
) -> None:
    values = [torch.tensor([value], dtype=torch.float64) for value in (before, matte, after)]
    assert fix_flicker(*values).item() == pytest.approx(expected, abs=1e-12)


def test_a_difference_equal_to_the_threshold_is_close() -> None:
    # Dyadic numbers, so that the comparison is exact.
    def fixed(*values: float) -> float:
        return fix_flicker(*(torch.tensor([value]) for value in values), threshold=0.125).item()

    assert fixed(0.5, 1.0, 0.625) == 0.5625
    assert fixed(0.5, 0.6875, 0.5625) == 0.6875
    assert fixed(0.5625, 0.6875, 0.5) == 0.6875


def test_clip_by_hand() -> None:
    clip = clip_of([0.0, 1.0, 0.0, 0.0], [1.0, 0.5, 1.0, 0.2], [0.3, 0.3, 0.3, 0.9])
    expected = clip_of([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.2], [0.3, 0.3, 0.3, 0.9])
    assert torch.equal(filtered(clip), expected)


def test_neighbours_are_the_unfiltered_mattes() -> None:
    # Filtered in place, frame 1 would become 0 and frame 2 would then differ from both of its neighbours.
    alternating = clip_of([0.0, 1.0, 0.0, 1.0, 0.0])
    assert torch.equal(filtered(alternating), clip_of([0.0, 0.0, 1.0, 0.0, 0.0]))


@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 6),
    threshold=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_every_frame_is_compared_with_those_beside_it(batch: int, frames: int, threshold: float, seed: int) -> None:
    clip = torch.rand(batch, frames, 1, 3, 5, generator=torch.Generator().manual_seed(seed))
    clip = (clip * 4).round() / 4
    expected = clip.clone()
    for t in range(1, frames - 1):
        expected[:, t] = fix_flicker(clip[:, t - 1], clip[:, t], clip[:, t + 1], threshold)
    assert torch.equal(filtered(clip, threshold), expected)


@pytest.mark.parametrize("frames", [1, 2])
def test_clips_without_an_inner_frame_stay(frames: int) -> None:
    clip = torch.rand(1, frames, 1, 2, 2)
    assert torch.equal(filtered(clip), clip)


def test_flush_starts_a_new_clip() -> None:
    ofd = OneFrameDelay()
    assert ofd.flush() is None
    ofd.push(torch.zeros(1, 1, 2, 2))
    ofd.push(torch.zeros(1, 1, 2, 2))
    ofd.flush()
    assert ofd.push(torch.ones(2, 1, 4, 4)) is None
    assert torch.equal(ofd.push(torch.zeros(2, 1, 4, 4)), torch.ones(2, 1, 4, 4))


def test_a_change_of_shape_is_an_error() -> None:
    ofd = OneFrameDelay()
    ofd.push(torch.zeros(1, 1, 2, 2))
    with pytest.raises(SizeError, match=r"call flush\(\)"):
        ofd.push(torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan")])
def test_threshold_is_a_difference_of_alpha(threshold: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        OneFrameDelay(threshold)
