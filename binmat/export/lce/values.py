"""What a node of the lowered graph has become in the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from binmat.export.lce.layout import Order, Shape, stored_shape
from binmat.export.tflite.schema import Array

#: Numbers that the file stores as they are in torch.
DTYPES: dict[torch.dtype, type[np.generic]] = {
    torch.float32: np.float32,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.bool: np.bool_,
}
WORD = 32


@dataclass(frozen=True)
class Value:
    """A torch value computed in the file. shape: torch's; order: see `layout`."""

    tensor: int
    shape: Shape
    order: Order
    dtype: torch.dtype = torch.float32

    @property
    def stored(self) -> Shape:
        return stored_shape(self.shape, self.order)


@dataclass
class Bits:
    """A value of +-1. Held as a float whose signs it takes (`signs`, never -0.0), packed in words, or both.

    packed: tensor of int32 [..., ceil(C / 32)], channels last; C is dimension 1 of shape.
    """

    shape: Shape
    signs: Value | None = None
    packed: int | None = None
    plain: Value | None = field(default=None, repr=False)


#: A node's result: a constant stays a torch tensor until an operator needs it in the file.
Result = Value | Bits | torch.Tensor | tuple[Any, ...]


def words(channels: int) -> int:
    return -(-channels // WORD)


def pack_signs(values: Array) -> Array:
    """+-1 [..., C] to int32 [..., ceil(C / 32)]: bit 1 is -1, channel c is bit c % 32, tail bits are 0."""
    channels = values.shape[-1]
    padded = np.zeros((*values.shape[:-1], words(channels) * WORD), dtype=np.uint8)
    padded[..., :channels] = values < 0
    return np.packbits(padded, axis=-1, bitorder="little").view("<i4")


def unpack_signs(packed: Array, channels: int) -> Array:
    """The inverse of `pack_signs`: float32 +-1 [..., C]."""
    content = np.ascontiguousarray(packed.astype("<i4")).view(np.uint8)
    bits = np.unpackbits(content, axis=-1, bitorder="little")[..., :channels]
    return (1 - 2 * bits.astype(np.int8)).astype(np.float32)


@dataclass(frozen=True)
class StoredValue:
    """Where a node's value lies in the file and how to read it.

    encoding: plain, packed (bits in words) or signs (of a float).
    """

    tensor: int
    shape: Shape
    order: Order
    encoding: str = "plain"

    @property
    def nbytes(self) -> int:
        """Size of the tensor, for values of four bytes."""
        if self.encoding == "packed":
            return 4 * int(np.prod(self.shape)) // self.shape[1] * words(self.shape[1])
        return 4 * int(np.prod(self.shape))

    def read(self, stored: Array) -> torch.Tensor:
        """The node's value in torch's layout from the stored tensor."""
        if self.encoding == "packed":
            stored = unpack_signs(stored, self.shape[1])
        elif self.encoding == "signs":
            stored = np.where(stored >= 0, np.float32(1), np.float32(-1))
        stored = stored.reshape(stored_shape(self.shape, self.order))
        return torch.from_numpy(np.ascontiguousarray(stored.transpose(_inverse(self.order))))


def _inverse(order: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(order))
