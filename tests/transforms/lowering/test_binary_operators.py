"""The binary operators on fake tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from binmat.transforms.lowering import binary_operators  # noqa: F401  (registers the operators)

X = torch.randn(1, 4, 7, 6).sign()
WEIGHT = torch.randn(6, 2, 3, 3).sign().to(torch.int8)
GEOMETRY = ([2, 1], [1, 2], [1, 2], 2, 1)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("binarize", (X, torch.zeros(4))),
        ("binarize", (X.double().to(memory_format=torch.channels_last), torch.zeros(1))),
        ("binary_conv2d", (X, WEIGHT, torch.ones(6), torch.ones(6), *GEOMETRY)),
        ("binary_conv2d_bits", (X.double(), WEIGHT, torch.ones(6, dtype=torch.int32), *GEOMETRY)),
    ],
)
def test_a_fake_result_has_the_shape_and_type_of_the_real_one(name: str, arguments: tuple[Any, ...]) -> None:
    operator = getattr(torch.ops.binmat, name).default
    torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))
