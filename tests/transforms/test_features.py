"""What parts return, by name: of float, converted and foreign networks. Hooks of layers that are replaced."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from example_networks import randomize
from torch import Tensor, nn
from torch.nn import functional as F

import binmat
from binmat.errors import InputError
from binmat.model_defs.rvm import RVM
from binmat.transforms.convert import convert
from binmat.transforms.recipe import Recipe
from binmat.transforms.trace import trace

SIZE = (16, 16)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.conv1(x))))


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)), Block()

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        fine = F.relu_(self.stem(x))
        return {"fine": fine, "coarse": F.avg_pool2d(self.block(fine), 2), "extra": None}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(), nn.Conv2d(8, 1, 1)
        self.unused = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.backbone(x)
        return self.head(maps["fine"] + F.interpolate(maps["coarse"], scale_factor=2))


NAMES = ["backbone", "backbone.stem", "backbone.stem.1", "backbone.block", "backbone.block.relu", "head"]


def read(network: nn.Module, x: Tensor, names: list[str] = NAMES) -> dict[str, Tensor]:
    with binmat.features(network, names) as found:
        result = network(x)
    assert torch.equal(found["head"], result)
    flat = {}
    for name, value in found.items():
        for key, tensor in value.items() if isinstance(value, dict) else [("", value)]:
            flat[name, key] = tensor
    return flat


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        value is None if first[key] is None else torch.equal(first[key], value) for key, value in second.items()
    )


@pytest.mark.parametrize("training", [False, True])
def test_a_traced_network_gives_what_the_module_gives(training: bool) -> None:
    module, x = randomize(Net()).train(training), torch.rand(2, 3, *SIZE)
    traced = trace(copy.deepcopy(module), SIZE)
    assert equal(read(traced, x), read(module, x))
    # Neither keeps a trace of it.
    assert torch.equal(traced(x), module(x)) and not module.head._forward_hooks


def test_what_is_read_is_from_before_it_is_changed_in_place() -> None:
    module, x = randomize(Net()).eval(), torch.rand(1, 3, *SIZE)
    for network in (module, trace(copy.deepcopy(module), SIZE)):
        found = read(network, x)
        stem = found["backbone.stem", ""]
        assert torch.equal(stem, module.backbone.stem(x)) and (stem < 0).any()


@pytest.mark.parametrize("scheme", ["bnn", "reactnet"])
def test_a_converted_network_gives_what_the_conversion_made(scheme: str) -> None:
    network = randomize(convert(Net(), scheme, settings=["shortcut=same"], size=SIZE)).eval()
    x = torch.rand(1, 3, *SIZE)
    found = read(network, x)
    head = network.get_submodule("head")
    maps = found["backbone", "fine"], found["backbone", "coarse"]
    want = head(maps[0] + F.interpolate(maps[1], scale_factor=2))
    assert torch.equal(want, network(x)) and found["backbone", "extra"] is None
    assert torch.equal(found["backbone", "coarse"], F.avg_pool2d(found["backbone.block", ""], 2))
    # The activation behind the second convolution, whatever it is called now.
    assert torch.equal(found["backbone.block.relu", ""], found["backbone.block", ""])


def test_features_carry_gradients() -> None:
    network, x = convert(Net(), "reactnet", size=SIZE), torch.rand(2, 3, *SIZE)
    with binmat.features(network, ["backbone.block"]) as found:
        network(x)
    found["backbone.block"].square().sum().backward()
    grad = network.get_submodule("backbone.block.conv1").weight.grad
    assert grad is not None and grad.abs().sum() > 0


def test_copies_and_pickles_can_be_read() -> None:
    network, x = convert(Net(), "reactnet", size=SIZE).eval(), torch.rand(1, 3, *SIZE)
    want = read(network, x)
    assert equal(read(copy.deepcopy(network), x), want)
    assert equal(read(convert(network, size=(32, 32)), x), want)
    again = pickle.loads(pickle.dumps(network))
    assert equal(read(again, x), want)


def test_a_converted_network_inside_a_module_can_be_read() -> None:
    network, x = convert(Net(), "reactnet", size=SIZE).eval(), torch.rand(1, 3, *SIZE)
    around = nn.Sequential(network, nn.Sigmoid())
    with binmat.features(around, ["0.backbone.block", "0.head", "1"]) as found:
        result = around(x)
    assert torch.equal(found["1"], result) and torch.equal(found["0.head"].sigmoid(), result)
    assert torch.equal(found["0.backbone.block"], read(network, x)["backbone.block", ""])


@pytest.mark.parametrize("recipe", [None, "bnn", "bimatting"])
def test_the_networks_of_the_registry_are_read_alike(recipe: str | None) -> None:
    network = RVM() if recipe is None else convert(RVM(), recipe=Recipe(scheme="bnn") if recipe == "bnn" else recipe)
    with torch.no_grad(), binmat.features(network, ["backbone", "aspp", "decoder.decode4.gru", "decoder"]) as found:
        network.eval()(torch.rand(1, 3, 64, 96))
    assert [value.shape[2:] for value in found["backbone"]] == [(32, 48), (16, 24), (8, 12), (4, 6)]
    assert len(found["decoder.decode4.gru"]) == 2
    assert found["aspp"].shape[2:] == (4, 6)
    assert found["decoder"][0].shape == (1, 16, 64, 96)


def test_names_that_are_no_part_are_refused() -> None:
    network = convert(Net(), "bnn", size=SIZE)
    for module in (Net(), network):
        with pytest.raises(InputError, match=r"has no part 'backbone.blok'; did you mean 'backbone.block'"):
            binmat.features(module, ["backbone.blok"]).__enter__()
    with pytest.raises(InputError, match="'unused' returns nothing in the graphs of Net"):
        binmat.features(network, ["unused"]).__enter__()
    with binmat.features(network, ["head"]) as found, pytest.raises(InputError, match="no call has reached 'head'"):
        found["head"]


def test_hooks_stay_on_layers_that_are_replaced() -> None:
    module, seen = Net(), []
    for name in ("backbone.block.conv1", "backbone.block.relu"):
        layer = module.get_submodule(name)
        layer.register_forward_hook(lambda m, args, out, name=name: seen.append((name, type(m).__name__)))
    module.get_submodule("backbone.block.conv2").register_forward_pre_hook(lambda m, args: (args[0] * 0,))
    network = convert(module, "reactnet", size=SIZE).eval()
    seen.clear()
    network(torch.rand(1, 3, *SIZE))
    assert seen == [
        ("backbone.block.conv1", "BinaryConv2d"),
        ("backbone.block.relu", "RPReLU"),
        ("backbone.block.relu", "RPReLU"),
    ]
    with binmat.features(network, ["backbone.block.conv2"]) as found:
        first, second = network(torch.rand(1, 3, *SIZE)), found["backbone.block.conv2"]
        network(torch.rand(1, 3, *SIZE))
    assert first.shape == (1, 1, *SIZE) and torch.equal(second, found["backbone.block.conv2"])
