"""Python's operators on tensors: with a number on either side, with a tensor, and in place."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binmat.pipeline.deployment import deploy
from binmat.transforms.convert import convert
from binmat.transforms.trace import trace

Operate = Callable[[Any, Any], Any]


def forms(operate: Operate, in_place: Operate, other: float, prepare=lambda x: x) -> Callable[[Tensor], list[Tensor]]:
    def compute(x: Tensor) -> list[Tensor]:
        left, right = prepare(x), prepare(x + 1)
        results = [operate(left, other), operate(other, left), operate(left, right)]
        results += [in_place(prepare(x).clone(), other), in_place(prepare(x).clone(), right)]
        return [result * x for result in results]

    return compute


def compares(operate: Operate) -> Callable[[Tensor], list[Tensor]]:
    return lambda x: [result * x for result in (operate(x, 1.0), operate(1.0, x), operate(x, x.square()))]


def larger_than_one(x: Tensor) -> Tensor:
    return x > 1


def as_integer(x: Tensor) -> Tensor:
    return (4 * x).int()


IN_A_FILE = {
    "+": forms(operator.add, operator.iadd, 2.0),
    "-": forms(operator.sub, operator.isub, 2.0),
    "*": forms(operator.mul, operator.imul, 2.0),
    "/": forms(operator.truediv, operator.itruediv, 2.0),
    "//": forms(operator.floordiv, operator.ifloordiv, 2.0),
    "%": forms(operator.mod, operator.imod, 2.0),
    "**": forms(operator.pow, operator.ipow, 2.0),
    "@": lambda x: [x @ x.transpose(2, 3), operator.imatmul(x, x.transpose(2, 3))],
    "one operand": lambda x: [-x, +x, abs(x), ~(x > 1) * x, pow(x, 2), x[:, 1:]],
    **{name: compares(getattr(operator, name)) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
    "and": lambda x: [((x > 1) & (x < 2)) * x, operator.iand(x > 1, x < 2) * x],
    "or": lambda x: [((x > 1) | (x < 2)) * x, operator.ior(x > 1, x < 2) * x],
    "xor": lambda x: [((x > 1) ^ (x < 2)) * x, operator.ixor(x > 1, x < 2) * x],
}
#: On the bits of integers, and with a bool of Python, which LCE has no operator for.
NOT_IN_A_FILE = {
    "and": forms(operator.and_, operator.iand, True, larger_than_one),
    "or": forms(operator.or_, operator.ior, True, larger_than_one),
    "xor": forms(operator.xor, operator.ixor, True, larger_than_one),
    "bits and": forms(operator.and_, operator.iand, 3, as_integer),
    "bits or": forms(operator.or_, operator.ior, 3, as_integer),
    "bits xor": forms(operator.xor, operator.ixor, 3, as_integer),
    "<<": forms(operator.lshift, operator.ilshift, 1, as_integer),
    ">>": forms(operator.rshift, operator.irshift, 1, as_integer),
    "~": lambda x: [~as_integer(x) * x],
}
#: Torch has no derivative of these with a tensor behind the operator.
WITHOUT_GRADIENTS = ("//", "%")


class Operates(nn.Module):
    """Computes with positive values."""

    def __init__(self, function: Callable[[Tensor], list[Tensor]]) -> None:
        super().__init__()
        self.first, self.conv, self.function = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), function

    def forward(self, x: Tensor) -> list[Tensor]:
        return self.function(self.conv(self.first(x)).sigmoid() + 0.5)


def same_results(network: nn.Module, other: Callable[[Tensor], Any], tolerance: float) -> None:
    x = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        for one, two in zip(network(x), other(x), strict=True):
            assert torch.allclose(one, two, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", IN_A_FILE)
def test_the_operator_is_traced_converted_and_exported(name: str) -> None:
    module = Operates(IN_A_FILE[name]).eval()
    traced = trace(module, (8, 8))
    assert not traced.untrainable or name in WITHOUT_GRADIENTS
    same_results(module, traced, 0)
    network = convert(module, "bnn", size=(8, 8)).eval()
    same_results(network, deploy(network, (8, 8)).lowered, 1e-5)


@pytest.mark.parametrize("name", NOT_IN_A_FILE)
def test_the_operator_is_traced(name: str) -> None:
    module = Operates(NOT_IN_A_FILE[name]).eval()
    traced = trace(module, (8, 8))
    assert not traced.untrainable
    same_results(module, traced, 0)
