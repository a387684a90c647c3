"""TFLite computes some operators in the memory of an operand: no value that is read again is lost."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lce_support import assert_same, assert_verified, export
from torch import Tensor

from binmat.backends.lce.interpreter import run_segment
from binmat.backends.lce.tflite.builder import ModelBuilder
from binmat.backends.lce.tflite.reader import read_model
from binmat.backends.lce.tflite.schema import BUILTINS
from binmat.errors import ExportError

SHAPES = ((1, 6, 4), (6, 4), (1, 4, 2, 3), (24,))
STEPS = {
    "add": lambda x, y: x + y.reshape(x.shape),
    "mul": lambda x, y: x * y.reshape(x.shape),
    "sub": lambda x, y: x - y.reshape(x.shape),
    "div": lambda x, y: x / (y.reshape(x.shape).abs() + 1),
    "scale": lambda x, y: x * 3.0,
    "relu": lambda x, y: torch.relu(x),
    "softmax": lambda x, y: torch.softmax(x, -1),
    "reshape": lambda x, y: x.reshape(SHAPES[(SHAPES.index(tuple(x.shape)) + 1) % len(SHAPES)]),
    "transpose": lambda x, y: x.reshape(4, 6).t().reshape(6, 4),
    "squeeze": lambda x, y: x.reshape(1, 6, 4).squeeze(0),
}
#: Steps: what is done with which of the latest values, and whether the result is read again at the end.
Program = list[tuple[str, int, int, bool]]

programs = st.lists(
    st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 1), st.integers(0, 3), st.booleans()),
    min_size=4,
    max_size=9,
)


def run_program(program: Program, x: Tensor) -> Tensor:
    values, read_again = [x, x.flip(1)], []
    for kind, first, second, again in program:
        recent = values[::-1]
        values.append(STEPS[kind](recent[first], recent[second % len(recent)]))
        if again:
            read_again.append(values[-1])
    return sum((value.reshape(-1).sigmoid() for value in read_again), values[-1].reshape(-1))


@settings(max_examples=40)
@given(program=programs)
def test_programs_with_several_readers(program: Program) -> None:
    x = torch.randn(SHAPES[0], generator=torch.Generator().manual_seed(0))
    assert_same(lambda x: run_program(program, x), x, tolerance=1e-5)


def residual(x: Tensor) -> Tensor:
    h = x + x.flip(1)
    return h + (h.reshape(6, 16) * 3).reshape(1, 6, 16)


def test_a_residual_stream_is_verified() -> None:
    assert_verified(residual, torch.randn(1, 6, 16))


def test_a_copy_stands_only_where_a_value_would_be_lost() -> None:
    x = torch.randn(1, 6, 16)

    def read_before(x: Tensor) -> Tensor:
        h = x + x.flip(1)
        return (h * 2).sum() + (h.reshape(6, 16) * 3).relu()

    assert read_model(export(residual, [x]).content).operators["CAST"] == 1
    assert "CAST" not in read_model(export(read_before, [x]).content).operators


def read_around(kind: str, place: int, operands: int) -> bytes:
    """m is read by an operator, as its operand number `place` behind a RESHAPE, and then again."""
    b = ModelBuilder()
    x, root, result, kept = (b.tensor(name, (4, 8)) for name in ("x", "root", "result", "kept"))
    m, read_again = b.tensor("m", (8, 4)), b.tensor("read again", (8, 4))
    reshaped = b.tensor("reshaped", (4, 8))
    order = b.constant(np.array([0, 1], np.int32), "order")
    b.operator("TRANSPOSE", [x, order], [root])
    b.operator("RESHAPE", [root, b.constant(np.array([8, 4], np.int32), "8x4")], [m], new_shape=(8, 4))
    b.operator("RESHAPE", [m, b.constant(np.array([4, 8], np.int32), "4x8")], [reshaped], new_shape=(4, 8))
    other = b.constant(np.full((4, 8), 3, np.float32), "other")
    options = {"beta": 1.0} if kind == "SOFTMAX" else {}
    b.operator(kind, [reshaped if i == place else other for i in range(operands)], [result], **options)
    b.operator("TRANSPOSE", [result, order], [kept])
    b.operator("TRANSPOSE", [m, order], [read_again])
    return b.build([("x", x)], [("kept", kept), ("read again", read_again)])


@pytest.mark.slow
def test_every_operator_leaves_what_is_read_again() -> None:
    x = np.linspace(1, 5, 32, dtype=np.float32).reshape(4, 8)
    ran = Counter[str]()
    for kind in BUILTINS:
        for place, operands in ((0, 1), (0, 2), (1, 2)):
            try:
                _, read_again = run_segment(read_around(kind, place, operands), [x], "optimized")
            except ExportError:
                continue  # Not for these operands.
            ran[kind] += 1
            assert np.array_equal(read_again, x.reshape(8, 4)), (kind, place)
    assert len(ran) > 30 and ran["ADD"] == ran["DIV"] == 2 and ran["SOFTMAX"] == 1
