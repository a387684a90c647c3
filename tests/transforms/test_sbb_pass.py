"""Another encoder in the place of a network's own: RVM, MODNet and networks of a user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import PolicyError
from binmat.model_defs.modnet import MODNet
from binmat.model_defs.network import Example
from binmat.model_defs.rvm import RVM
from binmat.nn import BinaryConv2d, RPReLU
from binmat.nn.sbb import SBBEncoder, SBBPlan, SBBRow
from binmat.transforms.convert import convert, plan_of
from binmat.transforms.sbb import ReplaceEncoder, sbb_encoder
from binmat.transforms.trace import graphs, trace

SMALL = SBBPlan(stem=8, blocks=(SBBRow(16, 2), SBBRow(16, 2)), tail=(32,), features=(0, 1))


class Encoder(nn.Module):
    """Three features at 1/2, 1/4 and 1/8, in whatever container the test asks for."""

    def __init__(self, container: Callable[..., Any] = lambda *features: features) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, 2, 1)
        self.b = nn.Conv2d(4, 6, 3, 2, 1)
        self.c = nn.Conv2d(6, 10, 3, 2, 1)
        self.container = container

    def forward(self, x: Tensor) -> Any:
        a = F.relu(self.a(x))
        b = F.relu(self.b(a))
        return self.container(a, b, F.relu(self.c(b)))


class Segmenter(nn.Module):
    """Reads the features through a 1x1, a depthwise convolution, a batch norm and a linear layer."""

    def __init__(self, encoder: nn.Module, unpack: Callable[[Any], tuple[Tensor, ...]] = tuple) -> None:
        super().__init__()
        self.encoder = encoder
        self.unpack = unpack
        self.lateral = nn.Conv2d(10, 8, 1)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.mix = nn.Conv2d(6, 8, 1)
        self.norm = nn.BatchNorm2d(4)
        self.fine = nn.Conv2d(4 + 8, 8, 3, padding=1)
        self.gate = nn.Linear(10, 8)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.unpack(self.encoder(x))
        gate = torch.sigmoid(self.gate(c.mean((2, 3))))
        y = F.interpolate(self.lateral(c), size=(b.shape[2], b.shape[3])) + self.mix(self.depthwise(b))
        y = F.interpolate(y, size=(a.shape[2], a.shape[3])) * gate[:, :, None, None]
        return torch.sigmoid(self.head(F.relu(self.fine(torch.cat([self.norm(a), y], 1)))))


@pytest.mark.parametrize("variant", ["mobilenetv3", "resnet50"])
def test_rvm_takes_table_4_in_every_mode(variant):
    network = RVM(variant).eval()
    before = {name: p.clone() for name, p in network.named_parameters() if name.startswith("decoder.decode0")}
    passed = sbb_encoder(trace(network))
    passed.apply(network)
    assert isinstance(network.backbone, SBBEncoder)
    assert set(passed.notes) >= {"aspp.aspp1.0", "aspp.aspp2.1", "decoder.decode3.conv.0", "decoder.decode2.conv.0"}
    assert ("decoder.decode1.conv.0" in passed.notes) == (variant == "resnet50")
    f4 = {"mobilenetv3": 960, "resnet50": 2048}[variant]
    assert passed.notes["aspp.aspp1.0"] == f"made anew, with fresh weights: reads 1024 channels instead of {f4}"
    assert network.decoder.decode3.conv[0].bias is None
    for name, value in before.items():
        assert torch.equal(network.get_parameter(name), value), "what does not read the features is left alone"
    src = torch.rand(2, 2, 3, 37, 50)
    with torch.no_grad():
        fgr, pha, *states = network(src)
        f1, f2, f3, f4 = network.backbone(src.flatten(0, 1))
        zeros = [torch.zeros_like(r) for r in states]
        hidden, *_ = network.decoder(src.flatten(0, 1), (f1, f2, f3, network.aspp(f4)), zeros)
        expected = network.project_mat(hidden)[:, 3:].clamp(0, 1)
    torch.testing.assert_close(pha.flatten(0, 1), expected)
    assert fgr.shape == (2, 2, 3, 37, 50)
    assert network(src, downsample_ratio=0.5)[1].shape == (2, 2, 1, 37, 50)
    assert network(src, segmentation_pass=True)[0].shape == (2, 2, 1, 37, 50)


@pytest.mark.parametrize("context", ["se", "easpp"])
def test_modnet_takes_it_at_its_own_strides_under_both_names_of_its_backbone(context):
    network = convert(MODNet(context), "reactnet", settings=["encoder=sbb"])
    encoder = network.get_submodule("backbone")
    assert isinstance(encoder, SBBEncoder)
    assert network.get_submodule("lr_branch.backbone") is encoder
    assert encoder.strides == (2, 4, 32)
    assert encoder.channels[-1] == 1280
    assert not encoder.plan.normalise, "MODNet's images are normalised already"
    semantic, detail, matte = network(torch.rand(1, 3, 64, 96), False)
    assert (semantic.shape, detail.shape, matte.shape) == ((1, 1, 4, 6), (1, 1, 64, 96), (1, 1, 64, 96))


@pytest.mark.parametrize("scheme", ["bnn", "dorefa", "recu", "reactnet", "threshold", "bimatting", "irnet"])
def test_schemes_of_every_kind_binarize_it_and_keep_its_rprelus(scheme):
    network = convert(RVM(), scheme, settings=["encoder=sbb"]).eval()
    plan = plan_of(network)
    assert plan["backbone.stem.0"].reason == "input layer: reads the frame"
    binary = [name for name, layer in plan.items() if name.startswith("backbone.") and layer.scheme]
    assert len(binary) == 34
    assert all(isinstance(network.get_submodule(name), BinaryConv2d) for name in binary)
    rprelus = [m for m in network.get_submodule("backbone").modules() if isinstance(m, RPReLU)]
    assert len(rprelus) == 34
    assert all(m.zeta is not None for m in rprelus)
    assert network(torch.rand(1, 3, 33, 47))[1].isfinite().all()


def test_the_shortcut_is_the_recipes():
    for shortcut, added in (("official", 3), ("paper", 5)):
        network = convert(RVM(), "bnn", settings=["encoder=sbb", f"block_shortcut={shortcut}"])
        assert sum(block.has_shortcut for block in network.get_submodule("backbone.blocks")) == added


def test_the_shortcut_pass_adds_none_to_what_has_its_own():
    plain = convert(RVM(), "bnn", settings=["encoder=sbb"])
    twice = convert(RVM(), "bnn", settings=["encoder=sbb", "shortcut=all"])
    # Every convolution's norm is read by one addition, and that by an activation.
    for network in (plain, twice):
        for node in graphs(network)["matting"].nodes:
            if node.op == "call_module" and node.target.startswith("backbone.") and "norm" in node.target:
                (addition,) = node.users
                (reader,) = addition.users
                assert ".act" in reader.target, node.target


CONTAINERS = {
    "tuple": (lambda a, b, c: (a, b, c), tuple),
    "list": (lambda a, b, c: [a, b, c], tuple),
    "dict": (lambda a, b, c: {"a": a, "b": b, "c": c}, lambda d: (d["a"], d["b"], d["c"])),
    "pyramid": (lambda a, b, c: ([a, b], c), lambda p: (p[0][0], p[0][1], p[1])),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_network_of_a_user_with_readers_of_every_kind(container):
    pack, unpack = CONTAINERS[container]
    module = Segmenter(Encoder(pack), unpack).eval()
    network = trace(module)
    encoder = SBBEncoder(SMALL)
    passed = ReplaceEncoder(encoder, "encoder")
    passed.apply(network)
    assert passed.notes == {
        "lateral": "made anew, with fresh weights: reads 32 channels instead of 10",
        "depthwise": "made anew, with fresh weights: reads 16 channels instead of 6",
        "mix": "made anew, with fresh weights: reads 16 channels instead of 6",
        "norm": "made anew, with fresh weights: normalises 8 channels instead of 4",
        "fine": "made anew, with fresh weights: reads 16 channels instead of 12",
        "gate": "made anew, with fresh weights: reads 32 features instead of 10",
    }
    assert network.get_submodule("depthwise").groups == 16
    x = torch.rand(2, 3, 30, 41)
    with torch.no_grad():
        got = network(x)
        # The same layers called by hand.
        module.encoder, module.unpack = encoder.eval(), tuple
        for name, layer in network.named_children():
            module.add_module(name, layer)
        torch.testing.assert_close(got, module(x))
    assert not any(isinstance(m, Encoder) for m in network.modules())
    converted = convert(network, "bimatting")
    assert plan_of(converted)["encoder.stem.0"].reason.startswith("first layer")
    assert converted(x).shape == (2, 1, 15, 21)


def test_a_new_encoder_takes_the_networks_type_and_trains():
    network = trace(Segmenter(Encoder()).double())
    ReplaceEncoder(SBBEncoder(SMALL), "encoder").apply(network)
    converted = convert(network, "reactnet").train()
    converted(torch.rand(2, 3, 32, 32, dtype=torch.float64)).mean().backward()
    assert all(p.grad is not None for p in converted.get_submodule("encoder").parameters())


class Residual(nn.Module):
    """Adds a feature to what has as many channels: there is no layer to adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.same = Encoder(), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.encoder(x)
        up = F.interpolate(b[:, :4], size=(a.shape[2], a.shape[3])) + a
        return self.same(up).mean((1, 2, 3)) + c.mean((1, 2, 3)) + up[:, :1] * torch.ones(1, 4, 1, 1)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        a, b, c = self.encoder(x + y)
        return a.mean() + b.mean() + c.mean()


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.grouped = Encoder(), nn.Conv2d(10, 10, 1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.encoder(x)
        return self.grouped(c).mean((2, 3)) + a.mean() + b.mean()


@pytest.mark.parametrize(
    ("module", "passed", "message"),
    [
        (Residual(), ReplaceEncoder(SBBEncoder(SMALL), "encoder"), "Residual do not fit at 'add"),
        (Grouped(), ReplaceEncoder(SBBEncoder(SMALL), "encoder"), "2 groups cannot read 32 channels in place of 10"),
        (Segmenter(Encoder()), ReplaceEncoder(SBBEncoder(), "encoder"), "reads 3 features of 'encoder' .* gives 4"),
        (
            Segmenter(Encoder()),
            ReplaceEncoder(SBBEncoder(SBBPlan(blocks=(SBBRow(32), SBBRow(32)), tail=(), features=(0, 1))), "encoder"),
            "feature 2 of the new 'encoder' has size 32x32 where the old one has 16x16",
        ),
        (Segmenter(Encoder()), ReplaceEncoder(SBBEncoder(SMALL), "backbone"), "no part called 'backbone': it has enc"),
        (Segmenter(Encoder()), ReplaceEncoder(SBBEncoder(SMALL), "unused"), "no part called 'unused'"),
        (RVM(), ReplaceEncoder(SBBEncoder(), "refiner.box_filter"), "an encoder reads one tensor|gives 4"),
    ],
)
def test_what_does_not_fit_is_named(module, passed, message):
    with pytest.raises(PolicyError, match=message) as error:
        passed.apply(trace(module))
    assert "\n" not in str(error.value)


def test_a_part_that_no_graph_runs_is_named():
    module = Segmenter(Encoder())
    module.idle = nn.Conv2d(3, 3, 1)
    with pytest.raises(PolicyError, match="no mode of Segmenter runs 'idle'"):
        ReplaceEncoder(SBBEncoder(SMALL), "idle").apply(trace(module))


def test_a_call_with_two_inputs():
    frames = torch.zeros(1, 3, 32, 32)
    network = trace(TwoInputs())
    ReplaceEncoder(SBBEncoder(SMALL), "encoder", Example("forward", {"x": frames, "y": frames}, ("o",))).apply(network)
    assert network(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)).shape == ()


def test_a_network_that_does_not_say_what_its_encoder_is():
    with pytest.raises(PolicyError, match=r"Segmenter does not say .* in the recipe, \[sbb\] replaces"):
        convert(Segmenter(Encoder()), "bnn", settings=["encoder=sbb"])
