"""Scales of binarized weights: values, optimality, gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from binmat.quantizers.scales import GRADIENTS, channel_scale, layer_scale, power_of_two_scale
from binmat.quantizers.sign import sign
from binmat.quantizers.weight_methods import centred


def test_values_by_arithmetic() -> None:
    weight = torch.tensor([[[[1.0, -3.0]]], [[[0.0, 2.0]]]])
    assert channel_scale(weight).tolist() == [2, 1]
    assert layer_scale(weight).tolist() == [1.5, 1.5]
    assert centred(weight).flatten().tolist() == [2, -2, -1, 1]


@given(st.integers(1, 5), st.integers(1, 6), st.floats(-1, 1), st.integers(0, 99))
def test_channel_scale_is_the_least_squares_fit(out: int, inputs: int, shift: float, seed: int) -> None:
    weight = torch.randn(out, inputs, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift
    alpha = channel_scale(weight)

    def error(candidate: torch.Tensor) -> torch.Tensor:
        return (weight - candidate.view(-1, 1, 1) * sign(weight)).square().flatten(1).sum(1)

    for factor in (0.99, 1.01):
        assert (error(alpha) <= error(alpha * factor)).all()


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_of_the_products(name: str) -> None:
    binary = sign(torch.randn(3, 4, 2, dtype=torch.float64)).requires_grad_()
    scale = torch.rand(3, 1, 1, dtype=torch.float64, requires_grad=True)
    source = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(3, 4, 2, dtype=torch.float64)

    product = GRADIENTS[name](binary, scale, source)
    assert torch.equal(product, binary * scale)
    found = torch.autograd.grad(product, (binary, scale, source), grad, allow_unused=True)
    to_scale = (grad * binary).sum((1, 2), keepdim=True)
    expected = {
        "straight": (grad, None, None),
        "product": (grad * scale, to_scale, None),
        "constant": (grad * scale, None, None),
        "elementwise": (grad * scale, None, grad / 8),
    }[name]
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


def test_a_power_of_two_is_the_nearest_in_its_exponent() -> None:
    means = torch.tensor([1.0, 0.8, 0.71, 0.7, 3.0, 2.8, 0.0, 0.03125])
    weight = torch.stack([means, -means], 1).requires_grad_()
    scale = power_of_two_scale(weight)
    assert scale.tolist() == [1, 1, 1, 0.5, 4, 2, 0, 0.03125]
    assert not scale.requires_grad


def test_differentiable_parts_pass_gradcheck() -> None:
    weight = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    for function in (centred, channel_scale, layer_scale):
        assert torch.autograd.gradcheck(function, (weight,))
