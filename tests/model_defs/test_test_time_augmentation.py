"""Test-time augmentation against its description in the paper, written with NumPy's rotations, and by hand."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binmat.model_defs.test_time_augmentation import mean_over_views


def uneven(image: Tensor, regions: Tensor) -> Tensor:
    """An estimate that changes with the way the image is turned and with its size."""
    rows = torch.linspace(0, 1, image.shape[2]).view(-1, 1)
    columns = torch.linspace(0, 1, image.shape[3]) ** 2
    return image[:, :1] * rows + image[:, 1:2] * columns + regions / 10


def example(height: int = 6, width: int = 9) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(1, 3, height, width), torch.randint(0, 3, (1, 1, height, width), dtype=torch.uint8)


def turned_mean(image: Tensor, regions: Tensor) -> np.ndarray:
    """Rotated by k pi / 2 for k = 0 to 3, with and without a flip: eight images (section 5.1)."""
    total = np.zeros(image.shape[2:])
    for flip, k in product((np.asarray, np.fliplr), range(4)):
        views = (np.stack([np.rot90(flip(channel), k) for channel in x[0].numpy()]) for x in (image, regions))
        alpha = uneven(*(torch.from_numpy(view[None]) for view in views))[0, 0].numpy()
        total += flip(np.rot90(alpha, -k))
    return total / 8


def test_eight_views_are_the_rotations_with_and_without_a_flip() -> None:
    image, regions = example()
    mean = mean_over_views(uneven, image, regions, 8)
    np.testing.assert_allclose(mean[0, 0].numpy(), turned_mean(image, regions), rtol=0, atol=1e-6)


def test_24_views_are_the_eight_at_three_scales() -> None:
    image, regions = example(11, 14)
    expected = torch.zeros(1, 1, 11, 14)
    for size in ((8, 11), (11, 14), (13, 17)):
        small = image if size == (11, 14) else F.interpolate(image, size=size, mode="bicubic").clamp(0, 1)
        nearest = F.interpolate(regions, size=size)
        mean = torch.from_numpy(turned_mean(small, nearest)).float()[None, None]
        expected += mean if size == (11, 14) else F.interpolate(mean, size=(11, 14), mode="bicubic")
    torch.testing.assert_close(mean_over_views(uneven, image, regions, 24), expected / 3, rtol=0, atol=1e-6)


def test_an_error_at_one_place_of_the_view_is_spread_over_the_corners() -> None:
    def corner(image: Tensor, regions: Tensor) -> Tensor:
        alpha = torch.zeros(1, 1, *image.shape[2:])
        alpha[..., 0, 0] = 1
        return alpha

    expected = torch.zeros(1, 1, 3, 4)
    expected[..., ::2, ::3] = 1 / 4
    assert torch.equal(mean_over_views(corner, *example(3, 4), 8), expected)
    assert torch.equal(mean_over_views(corner, *example(3, 4), 1), corner(*example(3, 4)))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1)])
def test_the_smallest_images(size: tuple[int, int]) -> None:
    image, regions = example(*size)
    mean = mean_over_views(lambda image, regions: image[:, :1], image, regions, 24)
    assert mean.shape == (1, 1, *size)
    assert ((mean >= 0) & (mean <= 1.2)).all()
