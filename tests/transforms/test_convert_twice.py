"""Modules with binary layers in them, placed by hand or converted before, and layers that are frozen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import PolicyError
from binmat.nn import BinaryConv2d, RPReLU
from binmat.quantizers import get_scheme
from binmat.reports import report
from binmat.transforms.convert import convert

SIZE = (16, 16)


def by_hand(scheme: str = "reactnet") -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        BinaryConv2d(8, 8, 3, padding=1, scheme=get_scheme(scheme), pad_value=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 1, 1),
    )


def small() -> nn.Sequential:
    layers = [nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)]
    return nn.Sequential(*layers)


class Around(nn.Module):
    """A converted network as a part of another one."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.before, self.part = nn.Conv2d(3, 3, 1), part
        self.middle, self.after = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.middle(self.part(self.before(x))))


def test_a_binary_layer_that_is_placed_by_hand_is_left_as_it_is():
    module = by_hand()
    network = convert(module, "bnn", settings=["shortcut=same"], size=SIZE)
    layer = network.get_submodule("1")
    assert (layer.scheme.name, layer.pad_value) == ("reactnet", 1)
    assert type(network.get_submodule("2")) is nn.ReLU
    plan = network.conversion.plan
    assert (plan["1"].precision, plan["1"].scheme.name) == ("binary", "reactnet")
    assert plan["1"].note == "binary already: left as it is"
    assert (plan["3"].scheme.name, plan["3"].note) == ("bnn", "")
    counted = {layer.name: layer.scheme for layer in report(network).layers}
    assert (counted["1"], counted["3"]) == ("reactnet", "bnn")
    x = torch.rand(1, 3, *SIZE)
    seen = []
    network.get_submodule("3").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network.eval()(x)
    assert torch.equal(seen[0], module[:3].eval()(x))


def test_a_converted_part_computes_what_it_did():
    part = convert(small(), "reactnet", size=SIZE)
    network = convert(Around(part), "bnn", settings=["shortcut=all", "part.0=float"], size=SIZE).eval()
    assert network.conversion.plan["part.1"].scheme.name == "reactnet"
    assert network.conversion.plan["part.4"].scheme.name == "bnn"
    assert isinstance(network.get_submodule("part.3"), RPReLU)
    seen = []
    x = torch.rand(1, 3, *SIZE)
    network.get_submodule("part.4").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(x)
    inside = part.eval().get_submodule("4").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        part(network.get_submodule("before")(x))
    inside.remove()
    assert torch.allclose(*seen, atol=1e-6)


@pytest.mark.parametrize("value", ["float", "bnn"])
def test_a_rule_that_names_a_binary_layer_is_refused(value):
    with pytest.raises(PolicyError, match=r"layer '1' is binary already \(reactnet\): leave the rule out"):
        convert(by_hand(), "bnn", settings=[f"1={value}"], size=SIZE)


def test_a_pattern_that_matches_binary_layers_alone_is_refused():
    with pytest.raises(PolicyError, match=r"'\[1\]' matches no convolution"):
        convert(by_hand(), "bnn", settings=["[1]=float"], size=SIZE)


class Norm(nn.BatchNorm2d):
    """A batch norm of a class of its own, which reads the flag in a function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, Norm])
def test_a_frozen_batch_norm_stays_frozen(norm):
    module = nn.Sequential(nn.Conv2d(3, 8, 1), norm(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 1))
    module[1].eval().requires_grad_(False)
    network = convert(module, "bnn", size=SIZE)
    assert {name: child.training for name, child in network.named_children()} == {
        name: child.training for name, child in module.named_children()
    }
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["1.weight", "1.bias"]
    before = network.get_submodule("1").running_mean.clone()
    network(torch.rand(2, 3, *SIZE)).sum().backward()
    assert torch.equal(network.get_submodule("1").running_mean, before)
    assert not torch.equal(network.get_submodule("3").running_mean, torch.zeros(8))
