"""RPReLU: values, gradients, shapes, and the added shifts of official BiMatting."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binmat.nn import RPReLU


def random_rprelu(channels: int) -> RPReLU:
    layer = RPReLU(channels, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 5)])
def test_values_per_channel(shape: tuple[int, ...]) -> None:
    layer = random_rprelu(3)
    x = torch.randn(shape, dtype=torch.float64)
    y = layer(x)
    for c in range(3):
        shifted = x[:, c] - layer.gamma[c]
        expected = torch.where(shifted >= 0, shifted, layer.slope[c] * shifted) + layer.zeta[c]
        torch.testing.assert_close(y[:, c], expected)


@pytest.mark.parametrize(
    ("dim", "shape"), [(-1, (3,)), (-1, (2, 5, 3)), (-1, (2, 4, 5, 3)), (-3, (3, 4, 5)), (0, (3, 2))]
)
def test_the_channels_are_in_the_dimension_that_is_named(dim: int, shape: tuple[int, ...]) -> None:
    layer = random_rprelu(3)
    x = torch.randn(shape, dtype=torch.float64)
    expected = layer(x.movedim(dim, 0)[None])[0].movedim(0, dim)
    layer.dim = dim
    torch.testing.assert_close(layer(x), expected)
    assert f"dim={dim}" in repr(layer)


@pytest.mark.parametrize(("slope", "reference"), [(0.0, nn.ReLU()), (0.2, nn.LeakyReLU(0.2)), (0.25, nn.PReLU())])
def test_it_starts_as_the_function_it_replaces(slope: float, reference: nn.Module) -> None:
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(RPReLU(4, slope)(x), reference(x))
    assert torch.equal(RPReLU(4).slope, torch.full((4,), 0.25))


def test_gradients_pass_gradcheck() -> None:
    layer = random_rprelu(3)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)

    def forward(*arguments: torch.Tensor) -> torch.Tensor:
        x, gamma, slope, zeta = arguments
        return torch.func.functional_call(layer, {"gamma": gamma, "slope": slope, "zeta": zeta}, (x,))

    assert torch.autograd.gradcheck(forward, (x, layer.gamma, layer.slope, layer.zeta))


def test_added_shifts_are_minus_gamma_and_zeta() -> None:
    before, after, slope = torch.randn(3, 4)
    layer = RPReLU(4)
    layer.load_state_dict({"gamma": -before, "slope": slope, "zeta": after})
    x = torch.randn(2, 4, 3, 3)
    shifted = F.prelu(x + before.view(1, 4, 1, 1), slope) + after.view(1, 4, 1, 1)
    assert torch.equal(layer(x), shifted)


def test_it_is_a_leaf_with_three_parameters_per_channel() -> None:
    layer = RPReLU(5)
    assert RPReLU.is_leaf is True
    assert {key: tuple(value.shape) for key, value in layer.state_dict().items()} == {
        "gamma": (5,),
        "slope": (5,),
        "zeta": (5,),
    }
    assert repr(layer) == "RPReLU(5)"
    assert torch.equal(copy.deepcopy(layer).slope, layer.slope)
    assert RPReLU(5, device="meta", dtype=torch.float16)(torch.empty(1, 5, device="meta").half()).shape == (1, 5)


def test_without_an_output_shift_it_is_a_prelu_of_the_shifted_input() -> None:
    plain, full = RPReLU(3, output_shift=False), RPReLU(3)
    full.load_state_dict(plain.state_dict() | {"zeta": torch.zeros(3)})
    with torch.no_grad():
        plain.gamma.copy_(gamma := torch.tensor([-0.5, 0.0, 0.7]))
        full.gamma.copy_(gamma)
    x = torch.randn(2, 3, 4, 4)
    assert plain.zeta is None
    assert set(plain.state_dict()) == {"gamma", "slope"}
    assert torch.equal(plain(x), full(x))
