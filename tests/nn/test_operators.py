"""The table of operators: every spelling is in it once, and none is told from another."""

from __future__ import annotations

import math
import operator
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binmat.nn.operators import OPERATORS, Operator, operator_of
from binmat.nn.sparse_conv import can_skip


def test_no_spelling_stands_in_two_entries() -> None:
    spellings = Counter(spelling for entry in OPERATORS.values() for spelling in entry.spellings)
    assert [spelling for spelling, entries in spellings.items() if entries > 1] == []


def test_every_entry_has_a_spelling_and_its_own_name() -> None:
    assert all(entry.spellings for entry in OPERATORS.values())
    assert all(entry.name == name for name, entry in OPERATORS.items())


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("relu", (nn.ReLU, torch.relu, torch.relu_, F.relu, F.relu_, "relu", "relu_")),
        ("prelu", (nn.PReLU, torch.prelu, F.prelu, "prelu")),
        ("hardtanh", (nn.Hardtanh, F.hardtanh, F.hardtanh_)),
        ("selu", (nn.SELU, torch.selu, torch.selu_, F.selu, F.selu_)),
        ("sigmoid", (nn.Sigmoid, torch.sigmoid, torch.sigmoid_, F.sigmoid, "sigmoid", "sigmoid_")),
        ("batch_norm", (nn.BatchNorm1d, nn.BatchNorm2d, F.batch_norm)),
        ("matmul", (operator.matmul, torch.matmul, torch.linalg.matmul, torch.bmm, "matmul", "mm")),
        ("rnn", (nn.RNN, nn.GRU, nn.LSTM, torch.lstm)),
        ("multihead_attention", (nn.MultiheadAttention, F.multi_head_attention_forward)),
        ("ceil", (math.ceil, torch.ceil, "ceil")),
        ("setitem", (operator.setitem,)),
        ("adaptive_avg_pool", (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d)),
    ],
)
def test_spellings_of_an_operator(name: str, spellings: tuple[object, ...]) -> None:
    assert {operator_of(spelling) for spelling in spellings} == {OPERATORS[name]}  # type: ignore[arg-type]


def test_a_subclass_may_compute_something_else() -> None:
    class Doubled(nn.ReLU):
        pass

    assert operator_of(Doubled) is OPERATORS["relu"]
    assert operator_of(Doubled, exact=True) is None


def test_unknown_operators_have_no_entry() -> None:
    assert operator_of(torch.cdist) is None
    assert operator_of(nn.Transformer) is None


@pytest.mark.parametrize("activation", [o for o in OPERATORS.values() if o.replaceable], ids=lambda o: o.name)
def test_pixels_of_activations_are_skipped(activation: Operator) -> None:
    """What the table says of the modules holds: a pixel of the result is that of the pixel alone."""
    module = activation.modules[0]()
    assert can_skip([module])
    x = torch.randn(1, 3, 4, 5)
    torch.testing.assert_close(module(x)[..., 1:2, 2:3], module(x[..., 1:2, 2:3]))


def test_norms_over_the_map_are_not_skipped() -> None:
    assert can_skip([nn.BatchNorm2d(3).eval()])
    assert not can_skip([nn.BatchNorm2d(3).train()])
    assert not can_skip([nn.SyncBatchNorm(3).train()])
    assert not can_skip([nn.InstanceNorm2d(3)])
