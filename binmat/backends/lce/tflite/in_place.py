"""Copies that keep TFLite from overwriting a tensor that is still needed.

TFLite computes some operators in place: the result takes the memory of an operand. RESHAPE only renames its operand, so
it may do that always. The others may do it where nothing else reads the operand. TFLite checks that for the operand and
for the first tensor in this memory, but not for the tensors between them. So in ::

    h = a + b;  r = reshape(h);  y = r * 3;  z = h + y

where h lies in the memory of a, y is written over h.

Source: tensorflow/lite/arena_planner.cc of TFLite 2.16, InputTensorCanBeShared and IdentifyInPlaceTensors. Which
operators run in place was tried with every operator of ``schema.BUILTINS`` that keeps the size of its operand.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from binmat.backends.lce.tflite.graph import Operator, Tensor
from binmat.backends.lce.tflite.schema import TENSOR_TYPES

#: Operator -> how many of its operands, from the first on, may give their memory to its result.
_IN_PLACE = {"RESHAPE": 1, "ADD": 2, "SUB": 2, "MUL": 2, "DIV": 2, "SOFTMAX": 1}
#: Results of no more bytes get memory of their own, unless they are a RESHAPE's.
_SCALAR_BYTES = 4


def with_copies(
    operators: Sequence[Operator], tensors: list[Tensor], inputs: Iterable[int], outputs: Iterable[int]
) -> list[Operator]:
    """The operators, with a copy before each one that would overwrite what a later one reads.

    operators: in the order in which they run. tensors: the copies are added to it. inputs, outputs: of the model.
    """
    inputs, outputs = set(inputs), set(outputs)
    reads = Counter(tensor for op in operators for tensor in op.inputs) + Counter([*inputs, *outputs])
    last_read = {tensor: index for index, op in enumerate(operators) for tensor in op.inputs}
    #: Tensor -> the first tensor in its memory, where that is another one; and all tensors behind that first one.
    first: dict[int, int] = {}
    behind: dict[int, list[int]] = defaultdict(list)
    result = []
    for index, op in enumerate(operators):
        changed = op.kind != "RESHAPE"
        may_share = [] if op.outputs[0] in outputs else op.inputs[: _IN_PLACE.get(op.kind, 0)]
        size = _bytes(tensors[op.outputs[0]])
        for operand in may_share:
            if operand in inputs or tensors[operand].data is not None:
                continue
            if changed and (reads[operand] > 1 or size <= _SCALAR_BYTES or _bytes(tensors[operand]) != size):
                continue
            memory = first.get(operand, operand)
            if changed and reads[memory] > 1:
                break
            if changed and any(last_read.get(tensor, -1) > index for tensor in behind[memory]):
                memory = len(tensors)
                tensors.append(replace(tensors[operand], name=f"{tensors[operand].name}/copy"))
                reads[memory] = 1
                result.append(_copy(operand, memory, tensors))
                op = replace(op, inputs=[memory if tensor == operand else tensor for tensor in op.inputs])
            first[op.outputs[0]] = memory
            behind[memory].append(op.outputs[0])
            break
        result.append(op)
    return result


def _copy(tensor: int, copy: int, tensors: Sequence[Tensor]) -> Operator:
    """A CAST to the type that the tensor has: of the operators that copy, it takes every rank and type."""
    code = TENSOR_TYPES[tensors[tensor].dtype]
    return Operator("CAST", [tensor], [copy], {"in_type": code, "out_type": code})


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize
