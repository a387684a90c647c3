from __future__ import annotations

import math

import torch

from binmat.verification.signs import furthest


def test_the_furthest_flipped_sign() -> None:
    distance = torch.tensor([-3.0, 1.0, 1.0, 1.0])
    assert furthest(distance, distance > 5) == 0
    assert math.isclose(furthest(distance, distance > 0), 1 / math.sqrt(3), rel_tol=1e-6)
    assert math.isclose(furthest(distance, distance < 0), math.sqrt(3), rel_tol=1e-6)


def test_a_distance_that_is_not_a_number_is_infinitely_far() -> None:
    distance = torch.tensor([math.nan, 1.0])
    assert furthest(distance, torch.tensor([True, False])) == math.inf
