"""What a padding of ones adds to a zero-padded binary convolution at its border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .windows import Axis


@dataclass(frozen=True)
class Border:
    """What the padding of ones has added to the sum, by class of row and class of column.

    table: int64 [row classes, column classes, O]; rows, columns: the class of every output row and column.
    """

    table: NDArray[Any]
    rows: list[int]
    columns: list[int]


def padding_share(weight: NDArray[Any], windows: tuple[Axis, Axis]) -> Border:
    """The share of the sum that comes from the padding. weight: +-1 [O, I, kh, kw].

    Only a few sets of kernel rows ever reach over the border, and the share depends on the output row through that
    set alone (the same for columns), so the table stays small whatever the image's size.
    """
    taps = weight.astype(np.int64).sum(axis=1)
    row_sets, rows = _classes(windows[0])
    column_sets, columns = _classes(windows[1])
    outside = row_sets[:, None, :, None] | column_sets[None, :, None, :]
    return Border(np.einsum("rcyx,oyx->rco", outside.astype(np.int64), taps), rows, columns)


def _classes(axis: Axis) -> tuple[NDArray[Any], list[int]]:
    """The distinct sets of kernel positions outside the data, bool [classes, k], and every output position's class."""
    starts = np.array([axis.start(position) for position in range(axis.out)])
    places = starts[:, None] + axis.dilation * np.arange(axis.kernel)[None, :]
    sets, classes = np.unique((places < 0) | (places >= axis.size), axis=0, return_inverse=True)
    return sets, [int(c) for c in classes.reshape(-1)]
