"""What torch.einsum multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from .call_recorder import Call

#: A dimension of an operand: its letter, or its position from the end among those that an ellipsis stands for.
Label = str | int


def equation_of(call: Call) -> str:
    """The equation of a call, without spaces."""
    equation: str = call.argument(0, "equation")
    return equation.replace(" ", "")


def operands_of(call: Call) -> Sequence[Tensor]:
    """The tensors of a call; einsum takes them one by one or as one list."""
    operands = call.args[1:]
    return operands[0] if operands and isinstance(operands[0], (list, tuple)) else operands


def einsum_macs(call: Call) -> int:
    """Two operands: one per combination of all their indices. More are multiplied from left to right, and an index that
    no later operand and no output has is summed over on the way. One operand has no product."""
    equation, operands = equation_of(call), operands_of(call)
    inputs, _, output = equation.partition("->")
    terms = [_labels(term, operand.dim()) for term, operand in zip(inputs.split(","), operands, strict=True)]
    sizes: dict[Label, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        for label, size in zip(term, operand.shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    every = [label for term in terms for label in term]
    if "->" in equation:
        kept = {label for label in every if isinstance(label, int) or label in output}
    else:
        kept = {label for label in every if isinstance(label, int) or every.count(label) == 1}
    macs, left = 0, set(terms[0])
    for position, term in enumerate(terms[1:], 2):
        left |= set(term)
        macs += prod(sizes[label] for label in left)
        left &= kept.union(*terms[position:])
    return macs


def _labels(term: str, dims: int) -> list[Label]:
    before, ellipsis, after = term.partition("...")
    hidden = dims - len(before) - len(after) if ellipsis else 0
    return [*before, *range(-hidden, 0), *after]
