"""Views, joins, slices and padding: what moves values without computing."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.layout import preferred_order
from binmat.backends.lce.rules.elementwise import Operand
from binmat.backends.lce.tflite.schema import MirrorPadMode
from binmat.backends.lce.values import Bits, Result, Value
from binmat.errors import ExportError

aten = torch.ops.aten

LONGEST_MIRROR_PAD = 4


@rule(
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
)
def identity(e: Emitter, x: Result, *_: object) -> Result:
    return x


@rule(operator.getitem)
def getitem(e: Emitter, x: tuple[Result, ...], index: int) -> Result:
    result = x[index]
    if result is None:
        raise ExportError(f"output {index} of that operator is not computed in the file: use its first output")
    return result


@rule(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.squeeze.default,
    torch.ops.prims.view_of.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
)
def view(e: Emitter, x: Operand, *_: object) -> Result:
    """The operand with the current node's output shape. Bits stay bits where the channels stay whole."""
    shape = e.output_shape
    if isinstance(x, Bits) and x.signs is not None and len(shape) > 1 and shape[:2] == x.shape[:2]:
        return Bits(shape, e.view(x.signs, shape))
    return e.view(e.value(x), shape)


@rule(aten.permute.default)
def permute(e: Emitter, x: Operand, dims: Sequence[int]) -> Value:
    return e.permute(e.value(x), dims)


@rule(aten.transpose.int, aten.t.default)
def transpose(e: Emitter, x: Operand, first: int = 0, second: int = -1) -> Value:
    value = e.value(x)
    dims = list(range(len(value.shape)))
    dims[first], dims[second] = dims[second], dims[first]
    return e.permute(value, dims)


@rule(aten.expand.default)
def expand(e: Emitter, x: Operand, size: Sequence[int], implicit: bool) -> Value:
    return expand_to(e, e.value(x), e.output_shape)


@rule(aten.copy.default)
def copy(e: Emitter, target: Operand, source: Operand, non_blocking: bool) -> Value:
    """The source in the target's shape and type."""
    return expand_to(e, e.cast(e.value(source), e.output_dtype), e.output_shape)


def expand_to(e: Emitter, value: Value, shape: Sequence[int]) -> Value:
    """The value repeated along its dimensions of size 1, and along new ones in front."""
    old = (1,) * (len(shape) - len(value.shape)) + value.shape
    return repeat(e, value, [n // o for n, o in zip(shape, old, strict=True)])


@rule(aten.repeat.default)
def repeat(e: Emitter, x: Operand, repeats: Sequence[int]) -> Value:
    value = e.value(x)
    value = e.view(value, (1,) * (len(repeats) - len(value.shape)) + value.shape)
    return e.tile(value, repeats)


def _alike(e: Emitter, operands: Sequence[Operand]) -> list[Value]:
    """Values in one order and type: the one most of them have, so that few are moved."""
    values = [e.cast(e.value(operand), e.output_dtype) for operand in operands]
    orders = [value.order for value in values]
    order = max(set(orders), key=lambda o: (orders.count(o), o == preferred_order(len(o))))
    return [e.ordered(value, order) for value in values]


@rule(aten.cat.default)
def cat(e: Emitter, operands: Sequence[Operand], dim: int) -> Value:
    # torch lets an empty 1-D tensor join anything.
    kept = [o for o in operands if not isinstance(o, Value | torch.Tensor) or 0 not in o.shape]
    return e.concat(_alike(e, kept), dim)


@rule(aten.stack.default)
def stack(e: Emitter, operands: Sequence[Operand], dim: int) -> Value:
    dim %= len(e.output_shape)
    parts = []
    for operand in operands:
        value = e.value(operand)
        parts.append(e.view(value, (*value.shape[:dim], 1, *value.shape[dim:])))
    return e.concat(_alike(e, parts), dim)


def narrow(e: Emitter, value: Value, dim: int, start: int | None, stop: int | None, step: int = 1) -> Value:
    """value[..., start:stop:step, ...] along a torch dimension, bounds as in a Python slice."""
    starts, stops, steps = [0] * len(value.shape), list(value.shape), [1] * len(value.shape)
    starts[dim], stops[dim], steps[dim] = slice(start, stop, step).indices(value.shape[dim])
    return e.crop(value, starts, stops, steps)


@rule(aten.slice.Tensor)
def slice_(e: Emitter, x: Operand, dim: int, start: int | None, end: int | None, step: int) -> Value:
    return narrow(e, e.value(x), dim, start, end, step)


@rule(aten.slice_scatter.default)
def slice_scatter(
    e: Emitter, x: Operand, part: Operand, dim: int, start: int | None, end: int | None, step: int
) -> Value:
    """x with part in the place of a slice: what stands before it, the part, what stands behind it."""
    value = e.value(x)
    if step != 1:
        return replace_along(e, value, part, dim, range(value.shape[dim])[slice(start, end, step)])
    begin, stop, _ = slice(start, end).indices(value.shape[dim])
    around = [(0, begin), (max(begin, stop), value.shape[dim])]
    before, behind = ([narrow(e, value, dim, *bounds)] if bounds[0] < bounds[1] else [] for bounds in around)
    return e.concat(_alike(e, [*before, part, *behind]), dim)


def replace_along(e: Emitter, value: Value, part: Operand, dim: int, places: Sequence[int]) -> Value:
    """The value with the slices of `part` at these places of a dimension."""
    dim %= len(value.shape)
    size = value.shape[dim]
    source = list(range(size))
    for index, place in enumerate(places):
        source[place] = size + index
    if not places:
        return value
    part = e.cast(e.value(part), value.dtype)
    shape = (*value.shape[:dim], len(places), *value.shape[dim + 1 :])
    joined = e.concat([value, e.ordered(expand_to(e, part, shape), value.order)], dim)
    return e.gather(joined, source, dim)


@rule(aten.select_scatter.default)
def select_scatter(e: Emitter, x: Operand, part: Operand, dim: int, index: int) -> Value:
    value = e.value(x)
    dim %= len(value.shape)
    index %= value.shape[dim]
    behind = tuple(value.shape[dim + 1 :])
    slab = e.view(e.value(part), (*value.shape[:dim], 1, *behind))
    around = [(0, index), (index + 1, value.shape[dim])]
    before, after = ([narrow(e, value, dim, *bounds)] if bounds[0] < bounds[1] else [] for bounds in around)
    return e.concat(_alike(e, [*before, slab, *after]), dim)


@rule(aten.select.int)
def select(e: Emitter, x: Operand, dim: int, index: int) -> Value:
    value = e.value(x)
    index %= value.shape[dim]
    return e.view(narrow(e, value, dim, index, index + 1), e.output_shape)


@rule(aten.split.Tensor)
def split(e: Emitter, x: Operand, size: int, dim: int) -> tuple[Value, ...]:
    value = e.value(x)
    total = value.shape[dim]
    return split_with_sizes(e, value, [min(size, total - start) for start in range(0, total, size)], dim)


@rule(aten.unbind.int)
def unbind(e: Emitter, x: Operand, dim: int) -> tuple[Value, ...]:
    value = e.value(x)
    parts = split_with_sizes(e, value, [1] * value.shape[dim], dim)
    dim %= len(value.shape)
    return tuple(e.view(part, value.shape[:dim] + value.shape[dim + 1 :]) for part in parts)


@rule(aten.split_with_sizes.default)
def split_with_sizes(e: Emitter, x: Operand, sizes: Sequence[int], dim: int) -> tuple[Value, ...]:
    value = e.value(x)
    if len(sizes) == 1:
        return (value,)
    dim %= len(value.shape)
    shapes = [(*value.shape[:dim], size, *value.shape[dim + 1 :]) for size in sizes]
    axis = value.order.index(dim)
    if len(set(sizes)) == 1:
        kind, inputs = "SPLIT", [e.constant(axis, np.int32), value.tensor]
    else:
        kind, inputs = "SPLIT_V", [value.tensor, e.integers(sizes), e.constant(axis, np.int32)]
    return e.emit_split(kind, inputs, shapes, value.order, value.dtype, num_splits=len(sizes))


@rule(aten.flip.default)
def flip(e: Emitter, x: Operand, dims: Sequence[int]) -> Value:
    value = e.value(x)
    for dim in dims:
        axes = e.integers([e.axis(value, dim)])
        value = e.emit("REVERSE_V2", [value, axes], value.shape, value.order, value.dtype)
    return value


@rule(aten.roll.default)
def roll(e: Emitter, x: Operand, shifts: Sequence[int], dims: Sequence[int]) -> Value:
    value = e.value(x)
    if not dims:
        flat = e.view(value, (math.prod(value.shape),))
        return e.view(roll(e, flat, shifts, [0]), value.shape)
    for shift, dim in zip(shifts, dims, strict=True):
        size = value.shape[dim]
        cut = -shift % size
        if cut:
            value = e.concat([narrow(e, value, dim, cut, size), narrow(e, value, dim, 0, cut)], dim)
    return value


def _two_sides(rank: int, amounts: Sequence[int]) -> tuple[list[int], list[int]]:
    """torch's padding list, last dimension first, as amounts before and after every dimension."""
    before, after = [0] * rank, [0] * rank
    for i in range(len(amounts) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = amounts[2 * i], amounts[2 * i + 1]
    return before, after


@rule(aten.constant_pad_nd.default)
def constant_pad(e: Emitter, x: Operand, amounts: Sequence[int], fill: float) -> Value:
    value = e.value(x)
    return e.pad(value, *_two_sides(len(value.shape), amounts), fill)


@rule(aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default)
def reflection_pad(e: Emitter, x: Operand, amounts: Sequence[int]) -> Value:
    value = e.value(x)
    before, after = _two_sides(len(value.shape), amounts)
    if len(value.shape) > LONGEST_MIRROR_PAD:
        for dim, size in enumerate(value.shape):
            if before[dim] or after[dim]:
                places = range(-before[dim], size + after[dim])
                value = e.gather(value, [size - 1 - abs(size - 1 - abs(i)) for i in places], dim)
        return value
    pads = e.constant([[before[dim], after[dim]] for dim in value.order], np.int32)
    return e.emit("MIRROR_PAD", [value, pads], e.output_shape, value.order, value.dtype, mode=MirrorPadMode.REFLECT)


@rule(aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default)
def replication_pad(e: Emitter, x: Operand, amounts: Sequence[int]) -> Value:
    """The file has no such padding: the border is gathered, dimension by dimension."""
    value = e.value(x)
    before, after = _two_sides(len(value.shape), amounts)
    for dim, size in enumerate(value.shape):
        if before[dim] or after[dim]:
            value = e.gather(value, [min(max(i, 0), size - 1) for i in range(-before[dim], size + after[dim])], dim)
    return value


def images(e: Emitter, x: Operand) -> Value:
    """The last three dimensions as those of images, all before them as one; in the preferred order."""
    value = e.value(x)
    return e.preferred(e.view(value, (math.prod(value.shape[:-3]), *value.shape[-3:])))


@rule(aten.pixel_shuffle.default)
def pixel_shuffle(e: Emitter, x: Operand, factor: int) -> Value:
    """DEPTH_TO_SPACE wants the position in the block before the channel; torch has it after."""
    value = images(e, x)
    n, c, h, w = value.shape
    out = c // factor**2
    turned = e.gather(value, [channel * factor**2 + place for place in range(factor**2) for channel in range(out)], 1)
    shape = (n, out, h * factor, w * factor)
    return e.view(e.emit("DEPTH_TO_SPACE", [turned], shape, block_size=factor), e.output_shape)


@rule(aten.pixel_unshuffle.default)
def pixel_unshuffle(e: Emitter, x: Operand, factor: int) -> Value:
    value = images(e, x)
    n, c, h, w = value.shape
    blocks = e.view(value, (n, c, h // factor, factor, w // factor, factor))
    return e.view(e.permute(blocks, (0, 1, 3, 5, 2, 4)), e.output_shape)


@rule(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def channel_shuffle(e: Emitter, x: Operand, groups: int) -> Value:
    value = e.value(x)
    size = value.shape[1] // groups
    return e.gather(value, [group * size + place for place in range(size) for group in range(groups)], 1)
