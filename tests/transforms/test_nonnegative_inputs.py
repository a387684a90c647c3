"""Layers behind a ReLU whose signs cannot change: found on the graph, and true of what runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from example_networks import ResNet, UNet
from torch import nn
from torch.nn import functional as F

from binmat.model_defs.modnet import MODNet
from binmat.model_defs.network import Example, Network
from binmat.model_defs.rvm import RVM
from binmat.nn import BinaryLayer
from binmat.transforms.calibrate import calibrate
from binmat.transforms.convert import convert
from binmat.transforms.nonnegative_inputs import nonnegative_inputs


class Many(nn.Module):
    """Every way to a binary layer: the names of the layers say what their input is."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("first", "signed", "blind", "pooled", "shifted", "joined", "mixed", "cubic", "minus", "last"):
            self.add_module(
                name, nn.Conv2d(16 if name in ("joined", "mixed") else 3 if name == "first" else 8, 8, 3, 1, 1)
            )
        self.norm = nn.BatchNorm2d(8)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.first(image))
        y = F.relu(self.signed(x))
        y = self.blind(y).relu()
        y = torch.relu(self.pooled(F.interpolate(F.max_pool2d(y, 2), scale_factor=2.0, mode="bilinear")))
        y = torch.relu(self.shifted(y - 0.5))
        z = torch.relu(self.joined(torch.cat([y, y.abs()], 1)))
        z = torch.relu(self.mixed(torch.cat([z, x], 1)))
        z = torch.relu(self.cubic(F.interpolate(z, scale_factor=2.0, mode="bicubic")))
        z = torch.relu(self.minus(z * -1.0))
        return self.last(z)


def test_what_cannot_be_negative() -> None:
    network = convert(Many(), "bnn")
    assert nonnegative_inputs(network, "forward") == ("blind", "pooled", "joined")


def observed(network: Network, image: torch.Tensor) -> set[str]:
    """Binary layers that saw no negative input."""
    seen: dict[str, bool] = {}
    for name, module in network.named_modules():
        if isinstance(module, BinaryLayer):
            module.register_forward_pre_hook(
                lambda _, args, name=name: seen.update({name: seen.get(name, True) and bool((args[0] >= 0).all())})
            )
    with torch.no_grad():
        network(image)
    return {name for name, never in seen.items() if never}


@pytest.mark.parametrize("scheme", ["bnn", "xnor", "recu"])
@pytest.mark.parametrize("build", [UNet, ResNet, RVM, MODNet])
def test_those_found_saw_no_negative_value(build: type[nn.Module], scheme: str) -> None:
    torch.manual_seed(0)
    network = convert(build(), scheme).eval()
    found = nonnegative_inputs(network, next(iter(network.modes)))
    assert found
    assert set(found) <= observed(network, torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("scheme", ["dorefa", "reactnet"])
def test_other_schemes_have_none(scheme: str) -> None:
    network = convert(RVM(), scheme)
    assert nonnegative_inputs(network, "matting") == ()


@pytest.mark.parametrize(("scheme", "settings"), [("threshold", []), ("bnn", ["options.threshold=layer"])])
def test_thresholds_at_their_start_are_found_and_calibrated_ones_are_not(scheme: str, settings: list[str]) -> None:
    network = convert(RVM(), scheme, settings=settings)
    assert nonnegative_inputs(network, "matting") == nonnegative_inputs(convert(RVM(), "bnn"), "matting") != ()
    calibrate(network, [{"src": torch.rand(1, 3, 64, 64)}])
    assert nonnegative_inputs(network, "matting") == ()


def test_a_masked_path_is_looked_into() -> None:
    network = convert(RVM(), "bnn", settings=["decoder=sab", "decoder.decode0.conv.3=bnn"])
    found = nonnegative_inputs(network, "matting")
    assert "decoder.decode0.conv.3" in found
    assert "decoder.decode0.conv.0" not in found


class One(nn.Module):
    """A binary layer behind a function of an image."""

    def __init__(self, before: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)
        self.before = before

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.before(self.first(image))))


@pytest.mark.parametrize(
    ("before", "blind"),
    [
        (lambda x: F.softplus(x), True),
        (lambda x: torch.relu_(x), True),
        (lambda x: x.sigmoid_(), True),
        (lambda x: F.dropout2d(x.relu()), True),
        (lambda x: torch.unsqueeze(x.relu(), 0).squeeze(0), True),
        (lambda x: x.relu().div(2), True),
        (lambda x: x.relu() / -2, False),
        (lambda x: torch.add(x.relu(), x.relu(), alpha=-1), False),
        (lambda x: F.pad(x.relu(), (1, 1), value=-1.0), False),
        (nn.Sequential(nn.ReLU(), nn.ReflectionPad2d(1)), True),
        (nn.Sequential(nn.ReLU(), nn.ConstantPad2d(1, -1.0)), False),
        (nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2, mode="bilinear")), True),
        (nn.Sequential(nn.ReLU(), nn.Upsample(scale_factor=2, mode="bicubic")), False),
        (nn.Hardtanh(), False),
        (lambda x: x, False),
    ],
)
def test_operators_before_a_layer(before: Callable[[torch.Tensor], torch.Tensor], blind: bool) -> None:
    network = convert(One(before), "bnn").eval()
    assert nonnegative_inputs(network, "forward") == (("middle",) if blind else ())
    if blind:
        assert "middle" in observed(network, torch.randn(1, 3, 8, 8))


def test_an_input_is_no_operator_whatever_its_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.middle, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)

        def forward(self, image: torch.Tensor, relu: torch.Tensor) -> torch.Tensor:
            return self.last(self.middle(relu) + self.first(image))

    example = Example("forward", {"image": torch.rand(1, 3, 4, 4), "relu": torch.rand(1, 4, 4, 4)}, ())
    assert nonnegative_inputs(convert(Two(), "bnn", example=example), "forward") == ()
