"""The convention ``fvcore`` against fvcore itself, and the figures that papers print by it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from example_networks import ResNet, UNet
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from report_support import Wrapped, counted, example
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.model_defs.network import Network
from binmat.model_defs.registry import build
from binmat.nn.ibnorm import IBNorm
from binmat.reports import count, report
from binmat.transforms.convert import convert


def fvcore_total(network: nn.Module, *inputs: Tensor) -> int:
    with torch.no_grad():
        analysis = FlopCountAnalysis(network.eval(), inputs)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        return int(analysis.total())


def official_ibnorm(self: IBNorm, x: Tensor) -> Tensor:
    half = self.batch_channels
    return torch.cat((self.bnorm(x[:, :half]), F.instance_norm(x[:, half:], eps=self.eps)), 1)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("modnet", {}),
        ("modnet", {"context": "easpp"}),
        ("litematting", {}),
        ("litematting", {"lsrppm": False, "enb": False}),
        ("lsa_matting", {}),
        ("pam", {"path": "0111"}),
    ],
)
def test_a_network_has_fvcores_total(name: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(name, **config)
    inputs = [value for value in network.example(64, 96).inputs.values() if isinstance(value, Tensor)]
    ours = count(network, "fvcore", size=(64, 96))
    assert not ours.not_counted
    monkeypatch.setattr(IBNorm, "forward", official_ibnorm)
    assert ours.total.flops == fvcore_total(network, *inputs)


@pytest.mark.parametrize("network", [UNet(), ResNet()], ids=["unet", "resnet"])
def test_networks_outside_the_registry(network: nn.Module) -> None:
    image = torch.zeros(1, 3, 32, 48)
    assert count(network, "fvcore", example=example(*image.shape)).total.flops == fvcore_total(network, image)


@pytest.mark.parametrize(
    ("name", "config", "size", "parameters", "flops", "printed"),
    [
        ("litematting", {}, (1024, 1024), 4_336_757, 101_506_687_344, "101.5"),
        ("litematting", {"enb": False}, (1024, 1024), 3_770_917, 52_977_942_512, "53.0"),
        ("litematting", {"lsrppm": False, "enb": False}, (1024, 1024), 3_523_717, 52_810_187_392, "52.8"),
        ("modnet", {}, (512, 512), 6_487_075, 15_671_443_456, "15.7"),
        ("lsa_matting", {}, (512, 512), 38_067_809, 48_587_038_720, "48.6"),
    ],
)
def test_printed_figures(
    name: str, config: dict[str, Any], size: tuple[int, int], parameters: int, flops: int, printed: str
) -> None:
    network = build(name, **config)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    total = count(network, "fvcore", size=size).total.flops
    assert total == flops and f"{total / 1e9:.1f}" == printed


@pytest.mark.parametrize(("path", "printed"), [("1101", "74.6"), ("0111", "69.6"), ("1110", "69.6"), ("0010", "57.8")])
def test_pams_printed_costs_are_textbook(path: str, printed: str) -> None:
    total = count(build("pam", path=path), "textbook", size=(1024, 1024)).total.flops
    assert f"{total / 1e9:.1f}" == printed


_KINDS = ["batch", "bare batch", "group", "instance", "bare instance", "nearest", "bilinear", "upsample", "pool"]


@settings(max_examples=20)
@given(st.lists(st.sampled_from([*_KINDS, "bicubic"]), min_size=1, max_size=4), st.integers(5, 9), st.integers(5, 9))
def test_any_row_of_operators(kinds: list[str], height: int, width: int) -> None:
    makers = {
        "batch": lambda: nn.BatchNorm2d(4),
        "bare batch": lambda: nn.BatchNorm2d(4, affine=False),
        "group": lambda: nn.GroupNorm(2, 4),
        "instance": lambda: nn.InstanceNorm2d(4, affine=True),
        "bare instance": lambda: nn.InstanceNorm2d(4),
        "upsample": lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
        "pool": lambda: nn.AdaptiveAvgPool2d((3, None)),
    }
    layers: list[nn.Module] = [nn.Conv2d(2, 4, 1)]
    for kind in kinds:
        if kind in makers:
            layers.append(makers[kind]())
        else:
            layers.append(Wrapped(lambda self, x, mode=kind: F.interpolate(x, scale_factor=1.5, mode=mode)))
    network = nn.Sequential(*layers)
    ours = counted(network, 1, 2, height, width, convention="fvcore").total.flops
    assert ours == fvcore_total(network, torch.zeros(1, 2, height, width))


def test_binary_layers_are_counted_in_bits() -> None:
    network = build("pam", path="0000")
    assert isinstance(network, Network)
    before = count(network, "fvcore", size=(64, 64)).total
    after = count(convert(network, "bnn"), "fvcore", size=(64, 64)).total
    macs = count(convert(network, "bnn"), "textbook", size=(64, 64)).total
    assert after.bops == macs.bops > 0 and before.flops - after.flops == macs.bops


def test_a_report_names_it_beside_its_columns() -> None:
    network = build("pam", path="0000")
    made = report(network, size=(64, 64))
    flops = count(network, "fvcore", size=(64, 64)).total.flops
    assert json.loads(json.dumps(made.to_json()))["cross_checks"] == {"fvcore": {"float": {"flops": flops}}}
    assert f"Cross-check fvcore: the float network has {flops / 1e9:.4f} G" in " ".join(str(made).split())
    # Of a converted network it is the float counterpart's.
    assert report(convert(network, "bnn"), size=(64, 64)).cross_checks == {"fvcore": flops}
