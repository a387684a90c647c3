"""The values that a model computes on the way, by running it segment by segment in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set

import numpy as np

from binmat.backends.lce.tflite.builder import ModelBuilder
from binmat.backends.lce.tflite.graph import Operator, Tensor
from binmat.backends.lce.tflite.schema import Array
from binmat.errors import VerificationError

#: (model, its inputs in order) -> its outputs in order, as stored.
Run = Callable[[bytes, Sequence[Array]], Sequence[Array]]
#: Tensors, by number, whose values are needed together.
TensorGroup = tuple[int, ...]


def run_in_segments(
    builder: ModelBuilder, groups: Sequence[TensorGroup], given: Mapping[int, Array], run: Run, segment_bytes: int
) -> Iterator[tuple[list[TensorGroup], Mapping[int, Array]]]:
    """Compute the tensors of all groups and yield (groups that are complete, arrays by tensor), each group once.

    Each segment of operators is a model of its own that goes on with the values of the one before. The work is that of
    one run, and the values are bit for bit those of the whole model. given: the model's inputs. run: the interpreter.
    segment_bytes: how many bytes of requested tensors one segment may compute; at least one operator runs. Arrays that
    no later operator and no later group needs are dropped.
    """
    requested = {tensor for group in groups for tensor in group}
    operators = builder.needed_operators(requested, given)
    made_by = {tensor: index for index, op in enumerate(operators) for tensor in op.outputs}
    ready = {group: max((made_by.get(tensor, -1) for tensor in group), default=-1) for group in groups}
    last_use = _last_uses(operators, ready)
    arrays = dict(given)
    for tensor in requested - made_by.keys() - arrays.keys():
        data = builder.tensors[tensor].data
        assert data is not None, "a tensor that no operator computes is an input or a constant"
        arrays[tensor] = data
    yield [group for group in groups if ready[group] < 0], arrays
    start = 0
    while start < len(operators):
        end = _segment_end(builder, operators, start, requested, segment_bytes)
        arrays = {tensor: array for tensor, array in arrays.items() if last_use.get(tensor, -1) >= start}
        segment = operators[start:end]
        made = [tensor for op in segment for tensor in op.outputs]
        wanted = [tensor for tensor in made if tensor in requested or last_use.get(tensor, -1) >= end]
        read = dict.fromkeys(tensor for op in segment for tensor in op.inputs if tensor in arrays)
        model = builder.build([(f"t{t}", t) for t in read], [(f"t{t}", t) for t in wanted])
        computed = run(model, [arrays[tensor] for tensor in read])
        check_shapes([builder.tensors[tensor] for tensor in wanted], computed)
        arrays.update(zip(wanted, computed, strict=True))
        yield [group for group in groups if start <= ready[group] < end], arrays
        start = end


def check_shapes(tensors: Sequence[Tensor], arrays: Sequence[Array]) -> None:
    """Raise VerificationError where the interpreter computes a tensor in another shape than the file says."""
    for tensor, array in zip(tensors, arrays, strict=True):
        if tuple(array.shape) != tensor.shape:
            raise VerificationError(
                f"the file's tensor '{tensor.name}' has shape {list(tensor.shape)}, and its operators compute "
                f"{list(array.shape)}: please report this as a bug of binmat"
            )


def _last_uses(operators: Sequence[Operator], ready: Mapping[TensorGroup, int]) -> dict[int, int]:
    """Tensor -> the last operator that reads it, or that completes a group with it."""
    last: dict[int, int] = {}
    for index, op in enumerate(operators):
        last.update(dict.fromkeys(op.inputs, index))
    for group, index in ready.items():
        for tensor in group:
            last[tensor] = max(last.get(tensor, -1), index)
    return last


def _segment_end(
    builder: ModelBuilder, operators: Sequence[Operator], start: int, requested: Set[int], limit: int
) -> int:
    size = 0
    for end in range(start, len(operators)):
        tensors = [builder.tensors[tensor] for tensor in operators[end].outputs if tensor in requested]
        size += sum(int(np.prod(tensor.shape)) * tensor.dtype.itemsize for tensor in tensors)
        if size > limit and end > start:
            return end
    return len(operators)
