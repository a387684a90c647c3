"""Crop-and-stitch: every unknown pixel is covered, weighted and computed; memory stays bounded."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from binmat.errors import InputError, SizeError
from binmat.model_defs.crop_and_stitch import WINDOW, crop_and_stitch, plan_windows, window_weight
from binmat.model_defs.litematting import LiteMatting
from binmat.model_defs.trimap import BACKGROUND, FOREGROUND, UNKNOWN, Trimap, one_hot, transform_map

SMALL = 8


class Recorder:
    """A stand-in network: alpha is a function of what it sees, and the calls are kept."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, image: Tensor, trimap: Tensor, maps: Tensor) -> Tensor:
        self.calls.append((image, trimap, maps))
        return (image[:, :1] + image.mean()) / 2


def refuse(*inputs: Tensor) -> Tensor:
    raise AssertionError("the network was called")


def masks(largest: int = 30) -> st.SearchStrategy[npt.NDArray[np.bool_]]:
    """Masks of unknown pixels at least one small window large, from empty over sparse to full."""

    def draw(height: int, width: int, seed: int, density: float) -> npt.NDArray[np.bool_]:
        return np.random.default_rng(seed).random((height, width)) < density

    sides = st.integers(SMALL, largest)
    return st.builds(draw, sides, sides, st.integers(0, 2**32 - 1), st.sampled_from([0, 0.002, 0.01, 0.3, 1]))


def covered(shape: tuple[int, ...], windows: list[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    for top, left in windows:
        assert 0 <= top <= shape[0] - SMALL
        assert 0 <= left <= shape[1] - SMALL
        mask[top : top + SMALL, left : left + SMALL] = True
    return mask


@given(masks())
def test_every_unknown_pixel_is_in_a_window(unknown: npt.NDArray[np.bool_]) -> None:
    windows = plan_windows(unknown, SMALL)
    assert len(set(windows)) == len(windows)
    assert (covered(unknown.shape, windows) | ~unknown).all()


@given(st.integers(SMALL, 40), st.integers(SMALL, 40))
def test_the_windows_of_a_wholly_unknown_image_cover_it_at_strides_of_half_a_window(height: int, width: int) -> None:
    windows = plan_windows(np.ones((height, width), bool), SMALL)
    assert covered((height, width), windows).all()
    for axis, length in enumerate((height, width)):
        starts = sorted({start[axis] for start in windows})
        assert starts[-1] == length - SMALL
        assert starts[:-1] == [SMALL // 2 * index for index in range(len(starts) - 1)]
        assert len(starts) == (length - 1 - SMALL // 2) // (SMALL // 2) + 1


def test_windows_with_at_most_one_unknown_pixel_are_skipped_where_another_covers_it() -> None:
    unknown = np.zeros((SMALL, 2 * SMALL), bool)
    assert plan_windows(unknown, SMALL) == []
    unknown[3, 2] = unknown[3, 5] = True
    # (0, 4) sees one of the two pixels, (0, 8) none.
    assert plan_windows(unknown, SMALL) == [(0, 0)]


@pytest.mark.parametrize(("column", "left"), [(0, 0), (5, 0), (6, 4), (9, 4), (15, 8)])
def test_a_lone_unknown_pixel_is_computed_in_the_window_where_it_weighs_most(column: int, left: int) -> None:
    unknown = np.zeros((SMALL, 2 * SMALL), bool)
    unknown[4, column] = True
    assert plan_windows(unknown, SMALL) == [(0, left)]


def test_weights_are_positive_and_grow_from_the_border_to_the_middle() -> None:
    weight = window_weight()
    assert weight.shape == (WINDOW, WINDOW) == (640, 640)
    for y, x in ((0, 0), (0, 300), (319, 320), (639, 5), (100, 630)):
        assert weight[y, x] == pytest.approx((min(y, x, 639 - y, 639 - x) + 1) / 321)
    assert weight.min() == pytest.approx(1 / 321)
    assert torch.equal(weight, weight.T)
    assert torch.equal(weight, weight.flip(0))


def trimap_of(unknown: npt.NDArray[np.bool_]) -> Trimap:
    """Unknown where asked, else background on the left half and foreground on the right."""
    regions = np.full(unknown.shape, BACKGROUND, np.uint8)
    regions[:, unknown.shape[1] // 2 :] = FOREGROUND
    regions[unknown] = UNKNOWN
    return Trimap(regions)


@given(masks(24))
def test_the_matte_is_the_weighted_mean_of_the_windows(unknown: npt.NDArray[np.bool_]) -> None:
    trimap = trimap_of(unknown)
    image = torch.rand(3, *unknown.shape, generator=torch.Generator().manual_seed(1))
    matte = crop_and_stitch(Recorder(), image, trimap, window=SMALL)
    assert matte.shape == unknown.shape
    expected = trimap.alpha().double().numpy()
    for y, x in np.argwhere(unknown):
        above = below = 0.0
        for top, left in plan_windows(unknown, SMALL):
            depth = min(y - top, x - left, top + SMALL - 1 - y, left + SMALL - 1 - x) + 1
            if depth > 0:
                crop = image[:, top : top + SMALL, left : left + SMALL].double()
                above += depth * float((image[0, y, x] + crop.mean()) / 2)
                below += depth
        expected[y, x] = above / below
    np.testing.assert_allclose(matte.numpy(), expected, atol=1e-6)


def test_a_lone_unknown_pixel_gets_the_networks_alpha() -> None:
    unknown = np.zeros((20, 20), bool)
    unknown[9, 3] = True
    network = Recorder()
    image = torch.rand(3, 20, 20)
    matte = crop_and_stitch(network, image, trimap_of(unknown), window=SMALL)
    assert len(network.calls) == 1
    torch.testing.assert_close(matte[9, 3], (image[0, 9, 3] + network.calls[0][0].mean()) / 2)
    assert matte.isfinite().all()


def test_one_window_is_whole_image_inference() -> None:
    net = LiteMatting().eval()
    unknown = np.zeros((64, 64), bool)
    unknown[:, 20:50] = True
    trimap = trimap_of(unknown)
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    matte = crop_and_stitch(net, image, trimap, window=64)
    with torch.no_grad():
        whole = net(image[None].float() / 255, one_hot(trimap.regions)[None], transform_map(trimap.regions)[None])[0, 0]
    inner = matte[:, 20:50]
    torch.testing.assert_close(inner, whole[:, 20:50])
    assert (inner != inner[0, 0]).any()
    assert torch.equal(matte[:, :20], torch.zeros(64, 20))
    assert torch.equal(matte[:, 50:], torch.ones(64, 14))


def test_a_small_image_is_padded_with_its_border_and_its_trimap_with_background() -> None:
    regions = np.full((5, 6), FOREGROUND, np.uint8)
    regions[2, 3:] = UNKNOWN
    image = torch.rand(3, 5, 6)
    network = Recorder()
    matte = crop_and_stitch(network, image, Trimap(regions), window=SMALL)
    ((seen, hot, maps),) = network.calls
    padded = torch.nn.functional.pad(image[None], (1, 1, 1, 2), mode="replicate")
    assert torch.equal(seen, padded)
    framed = np.pad(regions, ((1, 2), (1, 1)), constant_values=BACKGROUND)
    assert torch.equal(hot[0], one_hot(framed))
    assert torch.equal(maps[0], transform_map(framed))
    torch.testing.assert_close(matte[2, 3:], (image[0, 2, 3:] + padded.mean()) / 2)
    assert (matte[regions == FOREGROUND] == 1).all()


def test_8_bit_images_are_the_same_as_their_floats_and_may_be_views() -> None:
    unknown = np.ones((13, 11), bool)
    image = torch.randint(0, 256, (13, 11, 3), dtype=torch.uint8).permute(2, 0, 1)
    mattes = [
        crop_and_stitch(Recorder(), given, trimap_of(unknown), window=SMALL)
        for given in (image, image.contiguous(), image.float() / 255)
    ]
    assert torch.equal(mattes[0], mattes[1])
    assert torch.equal(mattes[0], mattes[2])


def test_an_all_known_trimap_is_answered_without_the_network() -> None:
    trimap = trimap_of(np.zeros((9, 10), bool))
    matte = crop_and_stitch(refuse, torch.rand(3, 9, 10), trimap, window=SMALL)
    assert torch.equal(matte, trimap.alpha())
    assert set(matte.unique().tolist()) == {0, 1}


def test_progress_counts_the_windows_that_are_computed() -> None:
    reports: list[tuple[int, int]] = []
    unknown = np.ones((SMALL, 2 * SMALL), bool)
    network = Recorder()
    crop_and_stitch(
        network,
        torch.rand(3, *unknown.shape),
        trimap_of(unknown),
        window=SMALL,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert reports == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert len(network.calls) == 3


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 3, 9, 10), r"shape \[1, 3, 9, 10\]"),
        (torch.rand(4, 9, 10), r"shape \[4, 9, 10\]"),
        (torch.rand(3, 10, 9), "10x9 pixels and its trimap 9x10"),
        (torch.zeros(3, 9, 10, dtype=torch.int32), "torch.int32"),
    ],
)
def test_images_that_do_not_fit_are_refused(image: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        crop_and_stitch(refuse, image, trimap_of(np.ones((9, 10), bool)), window=SMALL)


@pytest.mark.parametrize("window", [7, 0, -2])
def test_windows_without_a_half_are_refused(window: int) -> None:
    with pytest.raises(SizeError, match="even"):
        crop_and_stitch(refuse, torch.rand(3, 9, 10), trimap_of(np.ones((9, 10), bool)), window=window)


def peak_mebibytes(code: str) -> float:
    """The largest resident size of a fresh Python that runs this code. ru_maxrss would count this process, too."""
    code = textwrap.dedent(code) + "\nprint(open('/proc/self/status').read())\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(result.stdout.rpartition("VmHWM:")[2].split()[0]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_4000x6000_image_stays_under_3_gigabytes() -> None:
    peak = peak_mebibytes(
        """
        import numpy as np, torch
        from binmat.model_defs.crop_and_stitch import crop_and_stitch
        from binmat.model_defs.litematting import LiteMatting
        from binmat.model_defs.trimap import read_trimap

        torch.set_num_threads(1)
        values = np.zeros((4000, 6000), np.uint8)
        values[1000:3000, 1500:4500] = 255
        values[:200, :200] = values[-9:, -9:] = 128
        image = torch.from_numpy(np.tile(np.arange(6000, dtype=np.uint8), (3, 4000, 1)))
        counts = []
        matte = crop_and_stitch(
            LiteMatting().eval(), image, read_trimap(values, 4000, 6000), progress=lambda *count: counts.append(count)
        )
        assert matte.shape == (4000, 6000) and matte.isfinite().all()
        assert counts[-1] == (2, 2), counts
        """
    )
    assert peak < 3 * 1000**3 / 1024**2


def test_memory_is_let_go_between_windows() -> None:
    alive: list[int] = []
    kept: list[Any] = []

    def network(image: Tensor, trimap: Tensor, maps: Tensor) -> Tensor:
        kept.extend(weakref.ref(tensor) for tensor in (image, trimap, maps))
        alive.append(sum(reference() is not None for reference in kept))
        return image[:, :1]

    unknown = np.ones((5 * SMALL, 5 * SMALL), bool)
    crop_and_stitch(network, torch.rand(3, *unknown.shape), trimap_of(unknown), window=SMALL)
    assert len(alive) == 81
    assert max(alive) == 3
