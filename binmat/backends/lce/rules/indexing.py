"""Elements by their indices, which are constants or computed by the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.rules.elementwise import Operand, arithmetic_like, broadcast
from binmat.backends.lce.rules.shapes import expand_to, narrow, replace_along
from binmat.backends.lce.values import Bits, Value
from binmat.errors import ExportError

aten = torch.ops.aten
Index = Value | Tensor


def _counted_from_front(e: Emitter, index: Operand, size: int) -> Index:
    """The index without negative numbers."""
    if isinstance(index, Tensor):
        return index.long() % size
    value = e.value(index)
    behind = arithmetic_like(e, "ADD", value, size)
    negative = broadcast(e, "LESS", (value, 0), value.dtype, torch.bool)
    return broadcast(e, "SELECT_V2", (negative, behind, value), value.dtype)


def _at(e: Emitter, value: Value, index: Index, dim: int) -> Value:
    """The slices at a vector of indices along a dimension. Raises ExportError where the index has more dimensions."""
    dim %= len(value.shape)
    if isinstance(index, Tensor):
        return e.gather(value, [int(i) for i in index.flatten()], dim)
    shape = (*value.shape[:dim], math.prod(index.shape), *value.shape[dim + 1 :])
    vector = e.view(index, (math.prod(index.shape),))
    return e.emit("GATHER", [value, vector], shape, value.order, value.dtype, axis=value.order.index(dim))


@rule(aten.index_select.default)
def index_select(e: Emitter, x: Operand, dim: int, index: Operand) -> Value:
    value = e.value(x)
    if not value.shape:
        return value
    return e.view(_at(e, value, _counted_from_front(e, index, value.shape[dim]), dim), e.output_shape)


@rule(aten.embedding.default)
def embedding(e: Emitter, weight: Operand, index: Operand, *_: object) -> Value:
    return e.view(_at(e, e.value(weight), _counted_from_front(e, index, e.value(weight).shape[0]), 0), e.output_shape)


@rule(aten.take.default)
def take(e: Emitter, x: Operand, index: Operand) -> Value:
    flat = _flat(e, x)
    return e.view(_at(e, flat, _counted_from_front(e, index, flat.shape[0]), 0), e.output_shape)


def _flat(e: Emitter, x: Operand) -> Value:
    value = e.value(x)
    return e.view(value, (math.prod(value.shape),))


@rule(aten.gather.default)
def gather(e: Emitter, x: Operand, dim: int, index: Operand, sparse: bool = False) -> Value:
    """x cut to the index's size in the other dimensions; then TFLite's gather of rows, one row of indices for each."""
    value, picked = e.value(x), e.value(index)
    if not picked.shape:
        return value
    if not value.shape:
        return expand_to(e, value, picked.shape)
    dim %= len(value.shape)
    for other, size in enumerate(picked.shape):
        if other != dim:
            value = narrow(e, value, other, 0, size)
    order = [*(d for d in range(len(value.shape)) if d != dim), dim]
    rows, places = (e.permute(part, order) for part in (value, picked))
    count = math.prod(rows.shape[:-1])
    flat, which = (e.preferred(e.view(part, (count, part.shape[-1]))) for part in (rows, places))
    found = e.emit("GATHER", [flat, which], which.shape, dtype=value.dtype, axis=1, batch_dims=1)
    return e.permute(e.view(found, places.shape), [order.index(d) for d in range(len(order))])


@rule(aten.index.Tensor, aten._unsafe_index.Tensor)
def index_(e: Emitter, x: Operand, indices: Sequence[Operand | None]) -> Value:
    """x[indices]: one number for all indexed dimensions together, and what it picks put where torch puts it."""
    value = e.value(x)
    given = _without_masks(indices)
    dims = [dim for dim, index in enumerate(given) if index is not None]
    picked = [_counted_from_front(e, given[dim], value.shape[dim]) for dim in dims]  # type: ignore[arg-type]
    shape = tuple(torch.broadcast_shapes(*(tuple(index.shape) for index in picked)))
    if len(dims) == 1:
        found = _at(e, value, picked[0], dims[0])
        return e.view(found, (*value.shape[: dims[0]], *shape, *value.shape[dims[0] + 1 :]))
    rest = [dim for dim in range(len(value.shape)) if dim not in dims]
    sizes = [value.shape[dim] for dim in dims]
    number: Index = torch.zeros((), dtype=torch.int64)
    for index, size in zip(picked, sizes, strict=True):
        number = _sum(e, _product(e, number, size), index)
    number = number.expand(shape) if isinstance(number, Tensor) else expand_to(e, number, shape)
    ahead = e.permute(value, [*dims, *rest])
    rows = e.view(ahead, (math.prod(sizes), *(value.shape[dim] for dim in rest)))
    found = e.view(_at(e, rows, number, 0), (*shape, *rows.shape[1:]))
    # Neighbouring indices are answered where they stood, others in front.
    place = dims[0] if dims == list(range(dims[0], dims[-1] + 1)) else 0
    count = len(shape)
    back = [*range(count, count + place), *range(count), *range(count + place, len(found.shape))]
    return e.permute(found, back)


def _without_masks(indices: Sequence[Operand | None]) -> list[Operand | None]:
    """Constant masks as the indices of what they keep."""
    given: list[Operand | None] = []
    for index in indices:
        if isinstance(index, Value | Bits) and (isinstance(index, Bits) or index.dtype == torch.bool):
            raise ExportError("how many elements it keeps depends on the picture: use torch.where")
        masked = isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)
        given.extend(index.nonzero(as_tuple=True) if masked else [index])
    return given


def _product(e: Emitter, number: Index, size: int) -> Index:
    return number * size if isinstance(number, Tensor) else arithmetic_like(e, "MUL", number, size)


def _sum(e: Emitter, first: Index, second: Index) -> Index:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first + second
    return broadcast(e, "ADD", (first, second), torch.int64)


@rule(aten.index_put.default, aten._unsafe_index_put.default)
def index_put(e: Emitter, x: Operand, indices: Sequence[Operand | None], part: Operand, accumulate: bool) -> Value:
    """A computed mask selects; constant indices of one dimension say which slices are replaced."""
    value = e.value(x)
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    first = indices[dims[0]]
    if accumulate or len(dims) > 1 or first is None:
        raise ExportError("it writes to scattered places, which TFLite cannot do exactly: use torch.where")
    dtype = first.dtype if isinstance(first, Value | Tensor) else torch.float32
    if dtype == torch.bool and _size(part) == 1:
        mask = e.value(first)
        mask = e.view(mask, (*mask.shape, *[1] * (len(value.shape) - dims[0] - len(mask.shape))))
        return broadcast(e, "SELECT_V2", (mask, e.view(e.value(part), ()), value), value.dtype)
    if not isinstance(first, Tensor) or first.dim() != 1:
        raise ExportError("it writes to places that the network computes, which TFLite cannot do: use torch.where")
    places = first.nonzero().flatten() if dtype == torch.bool else first % value.shape[dims[0]]
    return replace_along(e, value, part, dims[0], [int(i) for i in places])


def _size(part: Operand) -> int:
    return math.prod(part.shape) if isinstance(part, Value | Tensor | Bits) else 1


@rule(aten.index_copy.default)
def index_copy(e: Emitter, x: Operand, dim: int, index: Operand, part: Operand) -> Value:
    if not isinstance(index, Tensor):
        raise ExportError("it writes to places that the network computes, which TFLite cannot do: use torch.where")
    return replace_along(e, e.value(x), part, dim, [int(i) for i in index.flatten()])


@rule(aten.unfold.default)
def unfold(e: Emitter, x: Operand, dim: int, size: int, step: int) -> Value:
    """Windows along a dimension; the place in the window becomes the last dimension."""
    value = e.value(x)
    dim %= len(value.shape)
    starts = range(0, value.shape[dim] - size + 1, step)
    picked = e.gather(value, [start + offset for start in starts for offset in range(size)], dim)
    windows = e.view(picked, (*value.shape[:dim], len(starts), size, *value.shape[dim + 1 :]))
    rank = len(windows.shape)
    return e.permute(windows, [*(d for d in range(rank) if d != dim + 1), dim + 1])


@rule(aten.as_strided.default)
def as_strided(e: Emitter, x: Operand, size: Sequence[int], stride: Sequence[int], offset: int | None) -> Value:
    """Indices into the tensor's memory. torch's own value says whether that is in the order of its dimensions."""
    source = e.node.args[0]
    if not isinstance(source, torch.fx.Node) or not source.meta["val"].is_contiguous():
        raise ExportError("it reads the memory of a permuted tensor: call contiguous() before it")
    steps = [np.arange(n) * s for n, s in zip(size, stride, strict=True)]
    places = sum(np.ix_(*steps)) + (offset or 0)
    return e.view(e.gather(_flat(e, x), np.ravel(places).tolist(), 0), size)


@rule(aten.diagonal.default)
def diagonal(e: Emitter, x: Operand, offset: int, first: int, second: int) -> Value:
    value = e.value(x)
    rank = len(value.shape)
    first, second = first % rank, second % rank
    rest = [dim for dim in range(rank) if dim not in (first, second)]
    rows, columns = value.shape[first], value.shape[second]
    last = e.permute(value, [*rest, first, second])
    flat = e.view(last, (*last.shape[:-2], rows * columns))
    places = torch.arange(rows * columns).reshape(rows, columns).diagonal(offset)
    return e.gather(flat, places.tolist(), len(rest))


@rule(aten.tril.default)
def tril(e: Emitter, x: Operand, diagonal: int) -> Value:
    value = e.value(x)
    kept = torch.ones(value.shape[-2:], dtype=torch.bool).tril(diagonal)
    return broadcast(e, "SELECT_V2", (kept, value, 0), value.dtype)


@rule(aten.triu.default)
def triu(e: Emitter, x: Operand, diagonal: int) -> Value:
    value = e.value(x)
    kept = torch.ones(value.shape[-2:], dtype=torch.bool).triu(diagonal)
    return broadcast(e, "SELECT_V2", (kept, value, 0), value.dtype)
