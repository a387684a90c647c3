"""Signs as bits in 32-bit words: bit 1 means negative, the first channel is the lowest bit, tail bits are 0."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Channels in one word.
WORD = 32


def words(channels: int) -> int:
    """How many words hold the signs of so many channels."""
    return -(-channels // WORD)


def pack_signs(values: NDArray[Any]) -> NDArray[np.int32]:
    """+-1 [..., C] to int32 [..., ceil(C / 32)]: channel c is bit c % 32 of word c // 32.

    >>> pack_signs(np.array([-1, 1, 1, -1]))
    array([9], dtype=int32)
    """
    channels = values.shape[-1]
    padded = np.zeros((*values.shape[:-1], words(channels) * WORD), dtype=np.uint8)
    padded[..., :channels] = values < 0
    return np.packbits(padded, axis=-1, bitorder="little").view("<i4")


def unpack_signs(packed: NDArray[Any], channels: int) -> NDArray[np.float32]:
    """The inverse of :func:`pack_signs`: float32 +-1 [..., C]."""
    content = np.ascontiguousarray(packed.astype("<i4")).view(np.uint8)
    bits = np.unpackbits(content, axis=-1, bitorder="little")[..., :channels]
    return (1 - 2 * bits.astype(np.int8)).astype(np.float32)
