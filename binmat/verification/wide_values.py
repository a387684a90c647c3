"""Synthetic operands that reach what pictures may not: zeros of both signs, the bounds of activations, large values."""

from __future__ import annotations

import math
import zlib
from functools import cache

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from binmat.transforms.lowering.constants import constant
from binmat.verification.node_check import BINARY_CONV, PRODUCTS
from binmat.verification.signs import BINARIZE

#: Elements that are drawn; larger tensors repeat them. A prime, so that rows do not.
_DRAWN = 2**20 - 3
#: Where activations bend, and values far beyond.
_SPECIAL = (0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0, 10.0, -10.0, 100.0, -100.0)
#: The size of the values that a sum of products reads.
_IMPULSE = 64.0


def wide_values(lowered: GraphModule, node: Node) -> Tensor:
    """Values for a node of the lowered graph that its readers are tried on; the same ones each time.

    What a sum of products reads is sparse: mostly zeros of both signs, and impulses of 64 that stand alone, so that
    single weights show in the result. What a binary convolution reads has the whole range of sums, from all +1 to all
    -1: pixels differ in the share of negative values. Everything else is dense: normal with mean 1 and deviation 3, and
    one value in eight of the special ones. What is binarized has each channel's threshold among them, and the floats
    beside it. Booleans are random.

    Raises ValueError for integers: they may be indices, and then not every number is one.
    """
    like: Tensor = node.meta["val"]
    if like.dtype == torch.bool:
        return _filled(_bits(), node) > 0
    if not like.is_floating_point():
        raise ValueError(f"'{node.name}' holds {like.dtype}")
    readers = {user.target for user in node.users}
    if BINARY_CONV in readers:
        return _growing(node).to(like.dtype)
    if any(user.target in PRODUCTS and user.args[PRODUCTS[user.target][0]] is node for user in node.users):
        return _impulses(node).to(like.dtype)
    values = dense_values(node)
    for user in node.users:
        if user.target is BINARIZE and values.dim() > 2:
            _put_thresholds(values, constant(lowered, user.all_input_nodes[1]))
    return values


def _put_thresholds(values: Tensor, threshold: Tensor) -> None:
    """Put the threshold and its neighbours among the values of each channel, so that a shift by one float shows."""
    level = threshold.reshape(-1).to(values.dtype)
    far = torch.full_like(level, math.inf)
    pixels = values.view(*values.shape[:2], -1)
    for place, at in enumerate((level, level.nextafter(far), level.nextafter(-far))):
        if place < pixels.shape[-1]:
            pixels[..., place] = at


def dense_values(node: Node) -> Tensor:
    """Normal values with mean 1 and deviation 3, and among eight of them one special one, in the node's shape."""
    return _filled(_dense(), node).to(node.meta["val"].dtype)


def _seed(node: Node) -> int:
    return zlib.crc32(node.name.encode())


@cache
def _dense() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = 1 + 3 * torch.randn(_DRAWN, generator=generator)
    special = torch.tensor(_SPECIAL)[torch.randint(len(_SPECIAL), (_DRAWN,), generator=generator)]
    return torch.where(torch.rand(_DRAWN, generator=generator) < 1 / 8, special, values)


@cache
def _bits() -> Tensor:
    return torch.rand(_DRAWN, generator=torch.Generator().manual_seed(1)) - 0.5


def _filled(drawn: Tensor, node: Node) -> Tensor:
    """The drawn values over and over, from a place that depends on the node."""
    shape = node.meta["val"].shape
    count, start = math.prod(shape), _seed(node) % _DRAWN
    first = drawn[start:][:count]
    left = count - len(first)
    return torch.cat([first, drawn.repeat(-(-left // _DRAWN))[:left]]).reshape(shape)


def _growing(node: Node) -> Tensor:
    """+-1, of which a share that differs from pixel to pixel is -1."""
    values = _filled(_bits(), node)
    if values.dim() < 3:
        return torch.where(values < 0, -1.0, 1.0)
    pixels = math.prod(values.shape[2:])
    share = torch.linspace(-0.5, 0.5, pixels)[_shuffled(pixels)].reshape(values.shape[2:])
    return torch.where(values < share, -1.0, 1.0)


@cache
def _shuffled(count: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(2))


def _impulses(node: Node) -> Tensor:
    """Zeros of both signs, and values with places between them, some in every channel."""
    shape = node.meta["val"].shape
    channels = shape[1] if len(shape) > 3 else shape[-1]
    places = max(math.prod(shape) // max(channels, 1), 1)
    share = min(max(1 / (4 * channels), 4 / places), 0.5)
    chosen = _filled(_bits(), node) + 0.5
    special = torch.tensor(_SPECIAL)[(chosen * 1e4).long() % len(_SPECIAL)]
    signs = torch.where((chosen * 1e5).long() % 2 == 0, _IMPULSE, -_IMPULSE)
    values = torch.where(chosen < share / 8, special, signs)
    return torch.where(chosen < share, values, signs * 0.0)
