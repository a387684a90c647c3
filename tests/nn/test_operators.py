"""The table of operators: every spelling is in it once, and none is told from another."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binmat.nn.operators import OPERATORS, operator_of
from binmat.nn.sparse_conv import can_skip


def test_no_spelling_stands_in_two_entries() -> None:
    spellings = Counter(spelling for operator in OPERATORS.values() for spelling in operator.spellings)
    assert [spelling for spelling, entries in spellings.items() if entries > 1] == []


def test_every_entry_has_a_spelling_and_its_own_name() -> None:
    assert all(operator.spellings for operator in OPERATORS.values())
    assert all(operator.name == name for name, operator in OPERATORS.items())


@pytest.mark.parametrize(
    ("name", "spellings"),
    [
        ("relu", (nn.ReLU, torch.relu, torch.relu_, F.relu, F.relu_, "relu", "relu_")),
        ("prelu", (nn.PReLU, torch.prelu, F.prelu, "prelu")),
        ("hardtanh", (nn.Hardtanh, F.hardtanh, F.hardtanh_)),
        ("selu", (nn.SELU, torch.selu, torch.selu_, F.selu, F.selu_)),
        ("sigmoid", (nn.Sigmoid, torch.sigmoid, torch.sigmoid_, F.sigmoid, "sigmoid", "sigmoid_")),
        ("batch_norm", (nn.BatchNorm1d, nn.BatchNorm2d, F.batch_norm)),
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
    assert operator_of(torch.cumsum) is None
    assert operator_of(nn.LSTM) is None


@pytest.mark.parametrize("operator", [o for o in OPERATORS.values() if o.replaceable], ids=lambda o: o.name)
def test_pixels_of_activations_are_skipped(operator) -> None:  # type: ignore[no-untyped-def]
    """What the table says of the modules holds: a pixel of the result is that of the pixel alone."""
    module = operator.modules[0]()
    assert can_skip([module])
    x = torch.randn(1, 3, 4, 5)
    torch.testing.assert_close(module(x)[..., 1:2, 2:3], module(x[..., 1:2, 2:3]))


def test_norms_over_the_map_are_not_skipped() -> None:
    assert can_skip([nn.BatchNorm2d(3).eval()])
    assert not can_skip([nn.BatchNorm2d(3).train()])
    assert not can_skip([nn.SyncBatchNorm(3).train()])
    assert not can_skip([nn.InstanceNorm2d(3)])
