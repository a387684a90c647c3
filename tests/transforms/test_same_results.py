"""When two calls gave the same tensors."""

from __future__ import annotations

import math

import pytest
import torch

from binmat.transforms.same_results import first_difference


@pytest.mark.parametrize("values", [[math.nan, 100.0], [math.inf, 100.0, -math.inf], [math.nan], [math.inf], []])
def test_equal_values_that_are_not_finite_are_no_difference(values: list[float]) -> None:
    assert first_difference([torch.tensor(values)], [torch.tensor(values)]) is None


@pytest.mark.parametrize(
    ("value", "other"), [(math.nan, 1.0), (math.inf, -math.inf), (math.inf, 1e30), (1.0, math.inf), (1.0, math.nan)]
)
def test_only_one_value_that_is_not_finite_is_a_difference(value: float, other: float) -> None:
    assert first_difference([torch.tensor([value, 100.0])], [torch.tensor([other, 100.0])]) == 0


def test_the_largest_finite_value_is_the_scale() -> None:
    one = torch.tensor([math.inf, math.nan, 100.0])
    assert first_difference([one], [torch.tensor([math.inf, math.nan, 100.0005])]) is None
    assert first_difference([one], [torch.tensor([math.inf, math.nan, 100.01])]) == 0
