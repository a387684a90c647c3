"""What a node of the lowered graph has become in the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from binmat.backends.lce.layout import Order, Shape, preferred_order, stored_shape
from binmat.backends.lce.tflite.graph import Tensor
from binmat.backends.lce.tflite.schema import Array
from binmat.transforms.lowering.sign_packing import pack_signs, unpack_signs

#: Numbers that the file stores as they are in torch.
DTYPES: dict[torch.dtype, type[np.generic]] = {
    torch.float32: np.float32,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.bool: np.bool_,
    torch.uint8: np.uint8,
    torch.int8: np.int8,
}


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


@dataclass(frozen=True)
class StoredValue:
    """Where a node's value lies in the file and how to read it.

    encoding: plain, packed (bits in words) or signs (of a float). dtype: the node's, where the file keeps another one.
    """

    tensor: int
    shape: Shape
    order: Order
    encoding: str = "plain"
    dtype: torch.dtype | None = None

    def read(self, stored: Array) -> torch.Tensor:
        """The node's value in torch's layout from the stored tensor, in the file's order in memory."""
        if self.encoding == "packed":
            stored = unpack_signs(stored, self.shape[1])
        elif self.encoding == "signs":
            stored = np.where(stored >= 0, np.float32(1), np.float32(-1))
        value = torch.from_numpy(stored.reshape(stored_shape(self.shape, self.order)).transpose(np.argsort(self.order)))
        return value if self.dtype is None else value.to(self.dtype)

    def store(self, value: torch.Tensor, like: Tensor) -> Array:
        """A value in torch's layout as the stored tensor takes it; bits are the signs of the value."""
        array = value.permute(self.order).reshape(stored_shape(self.shape, self.order)).numpy()
        if self.encoding == "packed":
            return pack_signs(array).reshape(like.shape)
        if self.encoding == "signs":
            array = np.where(array < 0, np.float32(-1), np.float32(1))
        return np.ascontiguousarray(array.astype(like.dtype, copy=False)).reshape(like.shape)


def to_stored(value: torch.Tensor | Array) -> Array:
    """A value in torch's layout as the file takes it: 4-D ones NCHW to NHWC, others as they are."""
    array = np.asarray(value)
    return array.transpose(preferred_order(array.ndim))


def from_stored(stored: Array) -> torch.Tensor:
    """An input or output of the file in torch's layout."""
    return torch.from_numpy(stored.transpose(np.argsort(preferred_order(stored.ndim)))).contiguous()
