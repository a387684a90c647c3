from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm

from binmat.transforms.convert import convert, plan_of
from binmat.transforms.parametrizations import without_parametrizations


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nn.utils.weight_norm(layer)


def pruned(layer: nn.Module) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize(
    "wrap",
    [pruned, old_weight_norm, old_spectral_norm, parametrizations.weight_norm, parametrizations.spectral_norm],
    ids=lambda wrap: f"{wrap.__module__}.{wrap.__name__}",
)
def test_a_network_with_computed_weights_is_converted(wrap) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), wrap(nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 1, 1))
    # A training step leaves results behind that cannot be copied as they are.
    x = torch.rand(1, 3, 5, 6)
    module(x).sum().backward()
    module.eval()
    keys, before = list(module.state_dict()), module(x)
    folded = without_parametrizations(module)
    torch.testing.assert_close(folded(x), before)
    assert [name for name, _ in folded.named_parameters()].count("1.weight") == 1
    network = convert(module, "bnn", size=(5, 6))
    assert plan_of(network)["1"].precision == "binary"
    torch.testing.assert_close(network.get_submodule("1").weight, folded.get_submodule("1").weight)
    # The module itself goes on as it was.
    assert list(module.state_dict()) == keys
    assert torch.equal(module(x), before)


def test_a_module_without_them_is_handed_on() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1))
    assert without_parametrizations(module) is module
    assert not parametrize.is_parametrized(module)


def test_a_module_built_in_inference_mode_is_trained_after_conversion() -> None:
    with torch.inference_mode():
        module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    network = convert(module, "reactnet", size=(4, 4)).train()
    network(torch.rand(1, 3, 4, 4)).sum().backward()
    assert network.get_submodule("1").weight.grad is not None


def test_autocast_is_followed() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = self.first(x)
            return self.last(y.float())

    module, x = Mixed().eval(), torch.rand(1, 3, 4, 4)
    from binmat.transforms.trace import trace

    network = trace(module)
    assert torch.equal(network(x), module(x))
    assert not torch.is_autocast_enabled("cpu")
