"""Trimaps: how values are read, what is refused, and the inputs that networks make of them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import distance_transform_edt

from binmat.errors import InputError, MissingExtraError
from binmat.model_defs.trimap import (
    BACKGROUND,
    FOREGROUND,
    TRANSFORM_SIGMA,
    UNKNOWN,
    Trimap,
    one_hot,
    read_trimap,
    transform_map,
)

REGIONS = np.array([[BACKGROUND, UNKNOWN, FOREGROUND], [UNKNOWN, FOREGROUND, BACKGROUND]], np.uint8)


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 128, 255], np.uint8)[REGIONS],
        np.array([0, 127, 254], np.uint8)[REGIONS],
        np.array([0, 32768, 65535], np.uint16)[REGIONS],
        np.array([0, 0.5, 1], np.float32)[REGIONS],
        torch.tensor([0, 0.5, 1])[torch.from_numpy(REGIONS).long()][None, None],
        np.array([0, 128, 255], np.uint8)[REGIONS][..., None].repeat(3, 2),
    ],
    ids=["8-bit", "8-bit rounded down", "16-bit", "floats", "tensor", "grey as RGB"],
)
def test_plain_trimaps_are_read_without_a_note(values: Any) -> None:
    trimap = read_trimap(values, 2, 3)
    np.testing.assert_array_equal(trimap.regions, REGIONS)
    assert trimap.regions.dtype == np.uint8
    assert trimap.notes == ()


@pytest.mark.parametrize(
    ("values", "note"),
    [
        (REGIONS, "0, 1, 2 were read as background, unknown, foreground"),
        (np.array([0, 128, 255], np.int64)[REGIONS], "int64 values stay below 256 and were read as 0 to 255"),
        (np.array([0, 128, 255], np.float64)[REGIONS], "beyond 1 and were read as 0 to 255"),
        (np.dstack([np.array([0, 128, 255], np.uint8)[REGIONS]] * 3 + [REGIONS]), "alpha channel was left out"),
        (np.array([5, 120, 250], np.uint8)[REGIONS], "6 of the trimap's 6 pixels are not 0, 128 or 255"),
    ],
    ids=["labels", "8-bit values in a wide type", "8-bit range of floats", "RGBA", "near values"],
)
def test_other_trimaps_are_read_with_a_note_that_says_how(values: npt.NDArray[Any], note: str) -> None:
    trimap = read_trimap(values, 2, 3)
    np.testing.assert_array_equal(trimap.regions, REGIONS)
    assert len(trimap.notes) == 1
    assert note in trimap.notes[0]


@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=6)))
def test_every_8_bit_value_is_read_as_the_nearest_region(values: npt.NDArray[np.uint8]) -> None:
    if values.max() in (1, 2):
        return  # labels, or refused
    trimap = read_trimap(values, *values.shape)
    distances = np.abs(values[..., None] - np.array([0, 127.5, 255]))
    np.testing.assert_array_equal(distances.argmin(2), trimap.regions)
    nearest = distances.min(2)
    assert bool(trimap.notes) == bool((nearest > 1).any())
    if trimap.notes:
        assert trimap.notes[0].startswith(f"{(nearest > 1).sum()} of")


def test_booleans_are_background_and_foreground() -> None:
    trimap = read_trimap(np.array([[True, False]]), 1, 2)
    assert trimap.regions.tolist() == [[FOREGROUND, BACKGROUND]]
    assert trimap.all_known


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "missing"),
        (np.zeros((3, 2), np.uint8), "3x2 pixels and the image 2x3"),
        (np.array([[[0, 0, 0], [0, 9, 0], [0, 0, 0]]] * 2, np.uint8), "colour"),
        (np.zeros((2, 3, 5), np.uint8), r"shape \[2, 3, 5\]"),
        (np.zeros(3, np.uint8), r"shape \[3\]"),
        (np.zeros((0, 3), np.uint8), "no pixels"),
        (np.array([[0, 1, 1], [0, 0, 1]], np.uint8), "no values but 0 and 1"),
        (np.array([[0, np.nan, 1], [0, 0, 1]]), "non-finite"),
        (np.array([[0, -1, 255], [0, 0, 0]], np.int32), "negative"),
        (np.array([[0, 1e6, 1], [0, 0, 1]]), "1000000"),
        (np.array([[0, 70000, 1], [0, 0, 1]], np.int64), "70000"),
        (np.array([["a", "b", "c"]] * 2), "type"),
    ],
)
def test_bad_trimaps_are_refused_in_one_line(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_trimap(values, 2, 3)
    assert "\n" not in str(caught.value)


def test_a_trimap_knows_its_alpha_and_its_one_hot_form() -> None:
    trimap = Trimap(REGIONS)
    assert trimap.size == (2, 3)
    assert not trimap.all_known
    assert trimap.alpha().tolist() == [[0, 0.5, 1], [0.5, 1, 0]]
    assert one_hot(trimap.regions).shape == (3, 2, 3)
    assert torch.equal(one_hot(trimap.regions).argmax(0), torch.from_numpy(REGIONS).long())
    assert torch.equal(one_hot(trimap.regions).sum(0), torch.ones(2, 3))


def test_settling_overwrites_known_pixels_and_clamps_the_others() -> None:
    alpha = torch.tensor([[0.7, -0.2, 0.1], [1.4, 0.0, 0.3]])
    assert Trimap(REGIONS).settle(alpha).tolist() == [[0, 0, 1], [1, 1, 0]]
    torch.testing.assert_close(Trimap(REGIONS).settle(torch.full((2, 3), 0.25)).unique(), torch.tensor([0, 0.25, 1]))


@given(arrays.arrays(np.uint8, (9, 7), elements=st.integers(0, 2)))
def test_the_transform_map_is_a_gaussian_of_the_distance(regions: npt.NDArray[np.uint8]) -> None:
    maps = transform_map(regions)
    assert maps.dtype == torch.float32
    grid = np.stack(np.indices(regions.shape), -1)
    for channel, region in enumerate((BACKGROUND, FOREGROUND)):
        pixels = grid[regions == region]
        if len(pixels) == 0:
            assert not maps[channel].any()
            continue
        squared = ((grid[:, :, None] - pixels) ** 2).sum(-1).min(-1)
        np.testing.assert_allclose(maps[channel].numpy(), np.exp(-squared / (2 * 16**2)), rtol=1e-6)


def test_strips_do_not_show_in_the_transform_map() -> None:
    """Wherever a strip of a high image ends, the nearest pixels lie within reach on either side."""
    regions = np.full((5000, 8), UNKNOWN, np.uint8)
    regions[3::400, 5] = BACKGROUND
    regions[4990:, :3] = FOREGROUND
    maps = transform_map(regions).numpy()
    for channel, region in enumerate((BACKGROUND, FOREGROUND)):
        distance = distance_transform_edt(regions != region)
        np.testing.assert_array_equal(maps[channel], np.exp(distance**2 / (-2 * TRANSFORM_SIGMA**2)).astype(np.float32))
    assert (maps[0] > 0).all() and (maps[1] == 0).any()


def test_the_transform_map_reaches_as_far_as_float32() -> None:
    regions = np.full((1, 300), UNKNOWN, np.uint8)
    regions[0, 0] = BACKGROUND
    background = transform_map(regions)[0, 0]
    assert (background[:231] > 0).all()
    assert not background[231:].any()


def test_without_scipy_the_transform_map_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(MissingExtraError, match=r"scipy.*binmat\[trimap\]"):
        transform_map(REGIONS)
