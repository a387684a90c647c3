"""Changes of the operators and constants that the writer has collected, to make faults of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from binmat.backends.lce.tflite.builder import ModelBuilder
from binmat.backends.lce.tflite.graph import Operator, Tensor
from binmat.backends.lce.tflite.schema import Array

Change = Callable[[ModelBuilder], None]


def find(builder: ModelBuilder, kind: str, index: int = 0, **options: Any) -> Operator:
    """The operator of this kind, and with these options, that stands at this place among them."""
    return [
        op for op in builder.operators if op.kind == kind and all(op.options.get(n) == v for n, v in options.items())
    ][index]


def kind(old: str, new: str, index: int = 0) -> Change:
    """Another operator with the same options."""

    def change(builder: ModelBuilder) -> None:
        find(builder, old, index).kind = new

    return change


def options(kind: str, index: int = 0, **values: Any) -> Change:
    """Other options."""

    def change(builder: ModelBuilder) -> None:
        find(builder, kind, index).options.update(values)

    return change


def activation(old: Any, new: Any) -> Change:
    """Another activation fused into an operator."""

    def change(builder: ModelBuilder) -> None:
        next(op for op in builder.operators if op.options.get("activation") == old).options["activation"] = new

    return change


def inputs(kind: str, order: Callable[[list[int]], list[int]], index: int = 0) -> Change:
    """Other operands. order: from the old ones."""

    def change(builder: ModelBuilder) -> None:
        op = find(builder, kind, index)
        op.inputs = order(op.inputs)

    return change


def left_out(kind: str, index: int = 0) -> Change:
    """Its first operand in the place of its result."""

    def change(builder: ModelBuilder) -> None:
        op = find(builder, kind, index)
        for reader in builder.operators:
            reader.inputs = [op.inputs[0] if tensor == op.outputs[0] else tensor for tensor in reader.inputs]

    return change


def constant(kind: str, place: int, change_value: Callable[[Array], Array], index: int = 0) -> Change:
    """Another constant for this operator alone. place: of the operand. change_value: gets a copy of the old one."""

    def change(builder: ModelBuilder) -> None:
        op = find(builder, kind, index)
        old = builder.tensors[op.inputs[place]]
        assert old.data is not None
        data = np.array(change_value(old.data.copy()), old.dtype, order="C")
        builder.tensors.append(Tensor(f"{old.name}/other", data.shape, old.dtype, data))
        op.inputs[place] = len(builder.tensors) - 1

    return change


def one_element(change_value: Callable[[Any, Any], Any], place: int = 1) -> Callable[[Array], Array]:
    """Changes a single element. change_value: gets it and the range of all of them."""

    def change(values: Array) -> Array:
        flat = values.reshape(-1)
        index = place % flat.size
        flat[index] = change_value(flat[index], np.abs(values).max())
        return flat.reshape(values.shape)

    return change


def moved(share: float) -> Callable[[Array], Array]:
    """Moves a single element by this share of the range."""
    return one_element(lambda value, span: value + share * span)
