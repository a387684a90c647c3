"""The values that a model computes on the way, by running it segment by segment in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set

import numpy as np

from binmat.backends.lce.tflite.builder import ModelBuilder, Operator
from binmat.backends.lce.tflite.schema import Array

#: (model, its inputs in order) -> its outputs in order, as stored.
Run = Callable[[bytes, Sequence[Array]], Sequence[Array]]
#: Tensors, by number, that are looked at together.
Look = tuple[int, ...]


def run_in_segments(
    builder: ModelBuilder, looks: Sequence[Look], given: Mapping[int, Array], run: Run, segment_bytes: int
) -> Iterator[tuple[list[Look], Mapping[int, Array]]]:
    """Compute the tensors that are to be looked at, each once, and hand them out as they come: (looks, arrays).

    Each segment of operators is a model of its own that goes on with the values of the one before, so the work is that
    of one run, and the values are bit for bit those of the whole model. given: the model's inputs. run: the
    interpreter. segment_bytes: how much of what is looked at one segment may compute; at least one operator runs. What
    no later operator or look needs is dropped.
    """
    looked_at = {tensor for look in looks for tensor in look}
    operators = builder.needed_operators(looked_at, given)
    made_by = {tensor: index for index, op in enumerate(operators) for tensor in op.outputs}
    ready = {look: max((made_by.get(tensor, -1) for tensor in look), default=-1) for look in looks}
    last_use = _last_uses(operators, ready)
    arrays = dict(given)
    for tensor in looked_at - made_by.keys() - arrays.keys():
        data = builder.tensors[tensor].data
        assert data is not None, "what no operator makes is given or constant"
        arrays[tensor] = data
    yield [look for look in looks if ready[look] < 0], arrays
    start = 0
    while start < len(operators):
        end = _segment_end(builder, operators, start, looked_at, segment_bytes)
        arrays = {tensor: array for tensor, array in arrays.items() if last_use.get(tensor, -1) >= start}
        segment = operators[start:end]
        made = [tensor for op in segment for tensor in op.outputs]
        wanted = [tensor for tensor in made if tensor in looked_at or last_use.get(tensor, -1) >= end]
        read = dict.fromkeys(tensor for op in segment for tensor in op.inputs if tensor in arrays)
        model = builder.build([(f"t{t}", t) for t in read], [(f"t{t}", t) for t in wanted])
        arrays.update(zip(wanted, run(model, [arrays[tensor] for tensor in read]), strict=True))
        yield [look for look in looks if start <= ready[look] < end], arrays
        start = end


def _last_uses(operators: Sequence[Operator], ready: Mapping[Look, int]) -> dict[int, int]:
    """Tensor -> the last operator that reads it, or at which something that it is part of is looked at."""
    last: dict[int, int] = {}
    for index, op in enumerate(operators):
        last.update(dict.fromkeys(op.inputs, index))
    for look, index in ready.items():
        for tensor in look:
            last[tensor] = max(last.get(tensor, -1), index)
    return last


def _segment_end(
    builder: ModelBuilder, operators: Sequence[Operator], start: int, looked_at: Set[int], limit: int
) -> int:
    size = 0
    for end in range(start, len(operators)):
        tensors = [builder.tensors[tensor] for tensor in operators[end].outputs if tensor in looked_at]
        size += sum(int(np.prod(tensor.shape)) * tensor.dtype.itemsize for tensor in tensors)
        if size > limit and end > start:
            return end
    return len(operators)
