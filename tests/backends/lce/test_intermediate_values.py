"""Running a model piece by piece: every value is that of the whole run, each operator runs once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lce_support import export
from torch.nn import functional as F

from binmat.backends.lce.intermediate_values import run_in_segments
from binmat.backends.lce.interpreter import LceInterpreter
from binmat.backends.lce.tflite.reader import read_model


def network(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    bits = torch.ops.binmat.binarize(y, torch.zeros(1))
    weight = torch.where(torch.arange(32 * 40 * 9).reshape(32, 40, 3, 3) % 3 == 0, -1, 1).to(torch.int8)
    z = torch.ops.binmat.binary_conv2d(bits, weight, torch.ones(32), torch.zeros(32), [1, 1], [1, 1], [1, 1], 1, 1)
    # Read again long after it was made.
    return torch.cat([F.max_pool2d(z, 3, 1, 1).sigmoid(), y], 1) - 0.5


@pytest.mark.parametrize("segment_bytes", [1, 6000, 2**30])
def test_values_are_those_of_the_whole_model(segment_bytes: int) -> None:
    x = torch.randn(1, 40, 5, 6)
    model = export(network, [x])
    given = {model.stored["x_1"].tensor: x.permute(0, 2, 3, 1).contiguous().numpy()}
    tensors = list(dict.fromkeys(value.tensor for name, value in model.stored.items() if name != "x_1"))
    whole = model.builder.build([("x", t) for t in given], [(f"t{t}", t) for t in tensors])
    expected = dict(zip(tensors, LceInterpreter(whole).run_stored(list(given.values())), strict=True))
    ran: list[str] = []

    def run(content: bytes, arrays: list[np.ndarray]) -> list[np.ndarray]:
        ran.extend(kind for kind, count in read_model(content).operators.items() for _ in range(count))
        return LceInterpreter(content).run_stored(arrays)

    seen: dict[int, np.ndarray] = {}
    segments = 0
    # Each tensor together with the one before it, which may have been made in an earlier segment.
    groups = [tuple(tensors[max(0, index - 1) : index + 1]) for index in range(len(tensors))]
    for found, arrays in run_in_segments(model.builder, groups, given, run, segment_bytes):
        segments += 1
        for group in found:
            for tensor in group:
                assert np.array_equal(arrays[tensor], expected[tensor])
                seen[tensor] = arrays[tensor]
    assert seen.keys() == expected.keys()
    assert sorted(ran) == sorted(
        kind for kind, count in read_model(model.content).operators.items() for _ in range(count)
    )
    assert (segments > 3) == (segment_bytes < 2**30)
    assert segments == 2 or segment_bytes < 2**30


def test_what_is_given_or_constant_needs_no_run() -> None:
    x = torch.randn(1, 3, 4, 4)
    model = export(lambda x: x + 1, [x])
    tensor = model.stored["x_1"].tensor
    given = {tensor: x.permute(0, 2, 3, 1).contiguous().numpy()}
    [(groups, arrays)] = run_in_segments(model.builder, [(tensor,)], given, lambda *_: pytest.fail("nothing runs"), 1)
    assert groups == [(tensor,)]
    assert arrays[tensor] is given[tensor]
