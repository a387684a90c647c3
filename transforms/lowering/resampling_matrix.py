"""Resizing as a product with one constant matrix per axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes


def resize_by_matrices(
    operator: Any,
    x: Tensor,
    size: Sequence[int],
    align_corners: bool,
    scale_h: float | None = None,
    scale_w: float | None = None,
) -> Tensor:
    """What a separable, linear resizing operator of torch makes of x [N, C, H, W]: rows @ x @ columns."""
    rows = resampling_matrix(operator, x.shape[2], size[0], align_corners, scale_h).to(x.dtype)
    columns = resampling_matrix(operator, x.shape[3], size[1], align_corners, scale_w).to(x.dtype)
    return rows @ (x @ columns.transpose(0, 1))


def resampling_matrix(operator: Any, size: int, out: int, align_corners: bool, scale: float | None) -> Tensor:
    """float64 [out, size]: the weight of every pixel in every resized one, by torch's own operator.

    The operator resizes the rows of the identity: each column is then what becomes of one pixel.
    """
    with _disable_current_modes():
        identity = torch.eye(size, dtype=torch.float64).view(1, 1, size, size)
        resized: Tensor = operator(identity, [out, size], align_corners, scale, None)
        return resized.view(out, size)
