"""BinaryLinear: its forward pass against an independent formula, construction and what is deployed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from binmat.nn import BinaryLinear
from binmat.quantizers import SCHEMES, get_scheme


@pytest.mark.parametrize("name", SCHEMES)
@given(
    inputs=st.integers(1, 70), outputs=st.integers(1, 5), bias=st.booleans(), scaled=st.booleans(),
    leading=st.sampled_from([(), (3,), (2, 3)]), seed=st.integers(0, 99),
)  # fmt: skip
def test_forward_equals_the_formula(
    name: str, inputs: int, outputs: int, bias: bool, scaled: bool, leading: tuple[int, ...], seed: int
) -> None:
    torch.manual_seed(seed)
    layer = BinaryLinear(inputs, outputs, bias, scheme=get_scheme(name, input_scale_map=scaled))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(*leading, inputs)
    deployed = layer.deployed()
    signs = torch.where(x - deployed.threshold >= 0, 1.0, -1.0).double()
    expected = signs @ deployed.weight.double().T * deployed.multiplier.double() + deployed.bias.double()
    if scaled:
        expected = expected * x.double().abs().sum(-1, keepdim=True) / inputs
        if layer.bias is not None:
            expected = expected + layer.bias.detach().double()
    torch.testing.assert_close(layer(x).detach(), expected.float(), rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SCHEMES)
def test_from_float_takes_the_very_parameters(name: str) -> None:
    linear = nn.Linear(6, 4, dtype=torch.float64).eval()
    binary = BinaryLinear.from_float(linear, get_scheme(name))
    assert binary.weight is linear.weight and binary.bias is linear.bias and not binary.training
    deployed = binary.deployed()
    assert deployed.weight.dtype == torch.int8 and deployed.weight.shape == (4, 6)
    assert deployed.multiplier.shape == deployed.bias.shape == (4,)
    assert deployed.threshold.shape == ((6,) if name in ("reactnet", "bimatting") else (1,))
    if binary.scale is not None:
        centred = linear.weight - linear.weight.mean(1, keepdim=True)
        torch.testing.assert_close(binary.scale.detach(), centred.abs().mean(1).detach())
    assert f"scheme={name}" in repr(binary)
    assert BinaryLinear.is_leaf is True


def test_a_layer_without_bias_and_without_data() -> None:
    with FakeTensorMode():
        layer = BinaryLinear.from_float(nn.Linear(6, 4, bias=False), get_scheme("recu"))
        assert layer.bias is None
        assert layer(torch.empty(2, 6)).shape == (2, 4)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_row_is_a_sample_whatever_surrounds_it(name: str) -> None:
    layer = BinaryLinear(9, 3, scheme=get_scheme(name))
    x = torch.randn(4, 9)
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[2], layer(x[2]))
    rows = x.clone().requires_grad_()
    layer(rows).sum().backward()
    alone = x[2].clone().requires_grad_()
    layer(alone).sum().backward()
    assert rows.grad is not None and alone.grad is not None
    torch.testing.assert_close(rows.grad[2], alone.grad)
