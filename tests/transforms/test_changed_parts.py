"""Parts of a converted network that are called alone: they give what they give inside, or refuse."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from example_networks import ResNet, UNet, randomize
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import binmat
from binmat.errors import InputError
from binmat.model_defs.modnet import MODNet
from binmat.model_defs.network import Network
from binmat.model_defs.rvm import RVM
from binmat.transforms.convert import convert
from binmat.transforms.part_calls import inputs_held, outputs_held
from binmat.transforms.recipe import Recipe
from binmat.transforms.shapes import ShapeInterpreter, probe_inputs
from binmat.transforms.trace import graphs

SIZE = (16, 16)


class Copying(ShapeInterpreter):
    """Keeps every value as it was before anything worked on it in place."""

    def __init__(self, shadow, graph) -> None:
        super().__init__(shadow, graph)
        self.kept = {}

    def run_node(self, n):
        value = super().run_node(n)
        self.kept[n] = pytree.tree_map_only(Tensor, Tensor.clone, value)
        return value


def refused_parts(network: Network, mode: str = "forward") -> set[str]:
    """Calls every part alone with what it gets inside; those that refuse. The others give what they give inside."""
    network.eval()
    graph, modules = graphs(network)[mode], dict(network.named_modules())
    inputs = probe_inputs(network)
    names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    values = [torch.rand_like(v) if isinstance(v, Tensor) else v for v in (inputs[name] for name in names)]
    run = Copying(copy.deepcopy(network), graph)
    taken: dict[str, dict[int, dict[int, Tensor]]] = {}
    parts = {held.part for node in graph.nodes for held in outputs_held(node)} & modules.keys()
    refused = set()
    with torch.no_grad(), binmat.features(network, parts) as inside:
        run.run(*copy.deepcopy(values))
        network.run(mode, *copy.deepcopy(values))
        for node in graph.nodes:
            for held in inputs_held(node):
                taken.setdefault(held.part, {}).setdefault(held.call, {})[held.index] = run.kept[node]
    assert inside
    with torch.no_grad():
        for part, want in inside.items():
            last = taken[part][max(taken[part])]
            arguments = [last[index] for index in sorted(last)]
            if part == "decoder":
                arguments = [arguments[0], arguments[1:5], arguments[5:]]
            try:
                found = modules[part](*copy.deepcopy(arguments))
            except InputError as error:
                assert f"'{part}' cannot be called alone" in str(error) and "binmat.features" in str(error)
                refused.add(part)
                continue
            torch.testing.assert_close(
                [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)],
                [leaf for leaf in pytree.tree_leaves(want) if isinstance(leaf, Tensor)],
                msg=lambda text, part=part: f"{part}: {text}",
            )
    return refused


class Block(nn.Module):
    """Two functions, so that a scheme which replaces activations changes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))))


def net(block: nn.Module | None = None) -> nn.Sequential:
    """stem, a row of layers, a block, head."""
    row = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), row, block or Block(), nn.Conv2d(8, 1, 1))


@pytest.mark.parametrize(
    ("scheme", "settings", "refused"),
    [
        ("bnn", [], set()),
        ("xnor", [], set()),
        ("reactnet", [], {"2"}),
        ("reactnet", ["shortcut=same"], {"1", "2"}),
        ("bnn", ["shortcut=same"], {"1", "2"}),
        ("bnn", ["shortcut=same", "1.0=float"], {"2"}),
        ("reactnet", ["2.*=float"], set()),
    ],
)
def test_what_a_pass_rewrote_refuses_and_the_rest_is_the_same(scheme: str, settings: list[str], refused: set) -> None:
    assert refused_parts(randomize(convert(net(), scheme, settings=settings, size=SIZE))) == refused


def test_a_module_whose_calls_are_replaced_apart_changes_its_block() -> None:
    network = randomize(convert(ResNet(), "reactnet", size=SIZE))
    assert refused_parts(network) == {"stage1", "stage2"}
    assert refused_parts(randomize(convert(UNet(), "reactnet", size=SIZE))) == set()


def test_the_recipe_bimatting() -> None:
    network = randomize(convert(RVM(), recipe="bimatting"))
    blocks = [f"decoder.decode{i}" for i in range(4)]
    # The masked layers themselves take a mask now.
    masked = [f"{block}.conv" for block in blocks] + [f"{block}.gru" for block in blocks[1:]]
    assert refused_parts(network, "matting") == {"decoder", *blocks, *masked}
    network.get_submodule("decoder.decode0.conv")(torch.rand(1, 35, 8, 8), torch.ones(1, 1, 8, 8))


def test_an_encoder_that_was_replaced_is_the_new_one_and_what_is_round_it_refuses() -> None:
    network = convert(MODNet(), recipe=Recipe(scheme="reactnet", encoder="sbb"))
    with torch.no_grad():
        assert len(network.get_submodule("backbone")(torch.rand(1, 3, 64, 64))) == 3
    with pytest.raises(InputError, match="'lr_branch' cannot be called alone: the conversion of modnet"):
        network.get_submodule("lr_branch")(torch.rand(1, 3, 64, 64))


class SamePadding(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)


class Writes(Block):
    """The activation goes into a part of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1
        y[:, :8] = F.relu(self.conv1(x))
        return y


class Lists(Block):
    """Keeps its layers in a plain list as well, which holds the float ones after a conversion."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = [(self.conv1, 1.0), (self.conv2, 2.0)]

    def forward(self, x: Tensor) -> Tensor:
        for conv, factor in self.rows:
            x = conv(x) * factor
        return x


@pytest.mark.parametrize(
    ("block", "scheme", "settings", "changed"),
    [
        (lambda: nn.Sequential(SamePadding(8, 8, 2)), "bnn", [], True),
        (Writes, "bnn", ["2.conv1=bnn"], False),
        (Writes, "reactnet", ["2.conv1=reactnet"], True),
        (Lists, "bnn", [], True),
        (lambda: nn.Sequential(Lists()), "bnn", [], True),
    ],
)
def test_code_that_calling_does_not_show(block, scheme: str, settings: list[str], changed: bool) -> None:
    network = convert(net(block()), scheme, settings=settings, size=SIZE).eval()
    part, x = network.get_submodule("2"), torch.rand(1, 8, *SIZE)
    if changed:
        with pytest.raises(InputError, match="'2' cannot be called alone"):
            part(x)
    else:
        assert part(x).shape == x.shape
    assert network(torch.rand(1, 3, *SIZE)).shape == (1, 1, *SIZE)


def test_an_activation_with_two_names_is_replaced_under_both() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.ReLU()
            self.conv = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.conv(x))

    network = convert(net(Named()), "reactnet", size=SIZE)
    assert refused_parts(network) == set()
    assert network.get_submodule("2.first") is network.get_submodule("2.second")


def test_children_whose_names_the_network_uses_are_watched_too() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.predict, self.head = nn.Conv2d(3, 8, 1), Block(), nn.Conv2d(8, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.predict(self.stem(x)))

    assert refused_parts(convert(Named(), "reactnet", size=SIZE)) == {"predict_"}


def float_net() -> nn.Module:
    return net().eval()


def test_copies_pickles_and_files_refuse_too(tmp_path) -> None:
    network, x = convert(float_net(), "reactnet", size=SIZE).eval(), torch.rand(1, 3, *SIZE)
    binmat.save(network, tmp_path / "model.safetensors", factory=f"{__name__}:float_net")
    for again in (
        copy.deepcopy(network),
        pickle.loads(pickle.dumps(network)),
        convert(network, size=(32, 32)),
        binmat.load(tmp_path / "model.safetensors", factory=f"{__name__}:float_net"),
    ):
        assert torch.equal(again(x), network(x)) and again.state_dict().keys() == network.state_dict().keys()
        with pytest.raises(InputError, match="'2' cannot be called alone"):
            again.get_submodule("2")(torch.rand(1, 8, *SIZE))


def test_a_network_with_refusing_parts_trains_and_is_converted_round() -> None:
    network, x = convert(net(), "reactnet", size=SIZE), torch.rand(2, 3, *SIZE)
    network.train()(x).sum().backward()
    assert network.get_submodule("2.conv1").weight.grad.abs().sum() > 0
    around = convert(nn.Sequential(network.eval(), nn.Conv2d(1, 1, 1)), "bnn", settings=["0.3=float"], size=SIZE).eval()
    torch.testing.assert_close(around.get_submodule("1")(network(x)), around(x))
    with pytest.raises(InputError, match="cannot be called alone"):
        around.get_submodule("0.2")(torch.rand(1, 8, *SIZE))
