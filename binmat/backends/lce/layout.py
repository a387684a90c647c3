"""In which order the file stores the dimensions of a torch value.

An order is a permutation: dimension i of the file is dimension order[i] of torch. A permutation of a value changes
its order and moves no data; data moves where an operator needs another order than the value has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Shape = tuple[int, ...]
Order = tuple[int, ...]


def preferred_order(rank: int) -> Order:
    """NHWC for 4-D values, as they are for the others."""
    return (0, 2, 3, 1) if rank == 4 else tuple(range(rank))


def stored_shape(shape: Sequence[int], order: Sequence[int]) -> Shape:
    return tuple(shape[dim] for dim in order)


def same_data(shape: Sequence[int], first: Order, second: Order) -> bool:
    """Whether both orders put the elements in the same sequence: dimensions of size 1 may stand anywhere."""
    return _long(first, shape) == _long(second, shape)


def permuted_order(order: Order, dims: Sequence[int]) -> Order:
    """The order of torch's `permute(dims)` of a value, its data left where it is."""
    return tuple(dims.index(dim) for dim in order)


@dataclass(frozen=True)
class View:
    """How to view a value: bring it into order `source`, then its data read as `target` is the new value."""

    source: Order
    target: Order


def plan_view(shape: Shape, order: Order, new_shape: Shape) -> View:
    """A view that moves data only where the stored order forces it to.

    Dimensions fall into groups with equal products on both sides, which a view splits or merges. The data can stay
    where each group's dimensions lie next to each other.
    """
    groups = _groups(shape, new_shape)
    stored = _long(order, shape)
    wanted = _long(preferred_order(len(new_shape)), new_shape)
    sequence = _sequence([old for old, _ in groups], stored)
    source = order
    if sequence is None:
        sequence = _sequence([new for _, new in groups], wanted) or list(range(len(groups)))
        source = _with_short((dim for index in sequence for dim in groups[index][0]), shape)
    return View(source, _with_short((dim for index in sequence for dim in groups[index][1]), new_shape))


def _long(order: Iterable[int], shape: Sequence[int]) -> list[int]:
    return [dim for dim in order if shape[dim] != 1]


def _with_short(long: Iterable[int], shape: Shape) -> Order:
    """A full order of `shape` whose dimensions longer than 1 stand as in `long`; the preferred one where it fits."""
    long = list(long)
    preferred = preferred_order(len(shape))
    if _long(preferred, shape) == long:
        return preferred
    rest = iter(long)
    return tuple(dim if size == 1 else next(rest) for dim, size in enumerate(shape))


def _groups(shape: Shape, new_shape: Shape) -> list[tuple[list[int], list[int]]]:
    """Minimal runs of dimensions longer than 1 whose products are equal on both sides."""
    old_dims, new_dims = _long(range(len(shape)), shape), _long(range(len(new_shape)), new_shape)
    groups = []
    while old_dims or new_dims:
        old, new = [old_dims.pop(0)], [new_dims.pop(0)]
        while (a := math.prod(shape[dim] for dim in old)) != (b := math.prod(new_shape[dim] for dim in new)):
            if a < b:
                old.append(old_dims.pop(0))
            else:
                new.append(new_dims.pop(0))
        groups.append((old, new))
    return groups


def _sequence(groups: list[list[int]], stored: list[int]) -> list[int] | None:
    """The order in which the groups lie in `stored`, or None where one of them is torn or turned."""
    sequence = []
    place = 0
    while place < len(stored):
        index = next((i for i, group in enumerate(groups) if group[0] == stored[place]), None)
        if index is None or stored[place : place + len(groups[index])] != groups[index]:
            return None
        sequence.append(index)
        place += len(groups[index])
    return sequence
