"""What single steps of a model compute by themselves, from operands that are given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from binmat.backends.lce.intermediate_values import Run
from binmat.backends.lce.tflite.builder import ModelBuilder
from binmat.backends.lce.tflite.schema import Array


@dataclass(frozen=True)
class Step:
    """The operators that compute the tensor `wanted` from the tensors that are given, by their arrays.

    nodes: of the lowered graph: the one that is computed, and those that are given.
    """

    nodes: tuple[str, ...]
    wanted: int
    given: Mapping[int, Array]


def run_alone(builder: ModelBuilder, steps: Iterable[Step], run: Run, most_bytes: int) -> Iterator[tuple[Step, Array]]:
    """Run every step on its own operands and yield it with its result.

    Many steps make one model, in which they stand side by side. run: the interpreter. most_bytes: of the operands of
    one such model; at least one step runs.
    """
    together: list[Step] = []
    size = 0
    for step in steps:
        taken = sum(array.nbytes for array in step.given.values())
        if together and size + taken > most_bytes:
            yield from _side_by_side(builder, together, run)
            together, size = [], 0
        together.append(step)
        size += taken
    if together:
        yield from _side_by_side(builder, together, run)


def _side_by_side(builder: ModelBuilder, steps: list[Step], run: Run) -> Iterator[tuple[Step, Array]]:
    together = ModelBuilder()
    together.tensors = list(builder.tensors)
    inputs: list[tuple[str, int]] = []
    outputs: list[tuple[str, int]] = []
    arrays = []
    computed = [step for step in steps if step.wanted not in step.given]
    yield from ((step, step.given[step.wanted]) for step in steps if step.wanted in step.given)
    for step in computed:
        own: dict[int, int] = {}
        for tensor, array in step.given.items():
            own[tensor] = _copy(together, tensor)
            inputs.append((f"t{own[tensor]}", own[tensor]))
            arrays.append(array)
        for op in builder.needed_operators([step.wanted], step.given):
            own |= {tensor: _copy(together, tensor) for tensor in op.outputs}
            renamed = [own.get(tensor, tensor) for tensor in op.inputs]
            together.operators.append(replace(op, inputs=renamed, outputs=[own[tensor] for tensor in op.outputs]))
        outputs.append((f"t{own[step.wanted]}", own[step.wanted]))
    results = run(together.build(inputs, outputs), arrays) if outputs else []
    yield from zip(computed, results, strict=True)


def _copy(builder: ModelBuilder, tensor: int) -> int:
    like = builder.tensors[tensor]
    return builder.tensor(like.name, like.shape, like.dtype)
