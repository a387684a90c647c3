"""Counts against fvcore and torch's own counter."""

from __future__ import annotations

import logging

import pytest
import torch
from example_networks import ResNet, UNet
from fvcore.nn import FlopCountAnalysis
from hypothesis import given, settings
from hypothesis import strategies as st
from report_support import counted, example
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from binmat.model_defs.registry import build
from binmat.model_defs.rvm import RVM
from binmat.reports import count

_COUNTED = ("conv", "linear", "addmm", "matmul", "bmm")


def fvcore_total(network: nn.Module, *inputs: Tensor) -> int:
    """fvcore's count of convolutions, linear layers and products."""
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    with torch.no_grad():
        analysis = FlopCountAnalysis(network.eval(), inputs)
        analysis.unsupported_ops_warnings(False)
        analysis.uncalled_modules_warnings(False)
        return int(sum(value for name, value in analysis.by_operator().items() if name in _COUNTED))


def torch_total(network: nn.Module, *inputs: Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(*inputs)
    return counter.get_total_flops()


class Matting(nn.Module):
    """RVM's mode as a module, for counters that know no modes."""

    def __init__(self, network: RVM) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.network.matting(*inputs)


def test_rvm_equals_fvcore_and_half_of_torch() -> None:
    network = build("rvm_mobilenetv3")
    assert isinstance(network, RVM)
    inputs = [value for value in network.example(128, 192).inputs.values() if isinstance(value, Tensor)]
    ours = count(network, "textbook", size=(128, 192)).total
    assert ours.flops == 750_673_536
    assert fvcore_total(Matting(network), *inputs) == 750_673_536
    assert torch_total(Matting(network), *inputs) == 1_501_347_072


@pytest.mark.parametrize("network", [UNet(), ResNet()], ids=["unet", "resnet"])
def test_networks_outside_the_registry(network: nn.Module) -> None:
    image = torch.zeros(1, 3, 33, 47)
    ours = count(network, "textbook", example=example(*image.shape)).total.flops
    assert ours == fvcore_total(network, image) == torch_total(network, image) / 2


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, tuple[int, int, int, int]]:
    """A few convolutions and a linear layer, and a size that they take."""
    size = st.integers(1, 3)
    channels = draw(st.sampled_from([1, 2, 4, 6]))
    first = channels
    layers: list[nn.Module] = []
    for _ in range(draw(st.integers(1, 3))):
        kernel = draw(st.tuples(size, size))
        dilation = draw(st.tuples(size, size))
        groups = draw(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]))
        out = groups * draw(size)
        padding = tuple(d * (k - 1) // 2 + draw(st.integers(0, 1)) for k, d in zip(kernel, dilation, strict=True))
        transposed = draw(st.booleans())
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        padding = (0, 0) if transposed else padding
        layers.append(
            kind(channels, out, kernel, draw(st.tuples(size, size)), padding,
                 dilation=dilation, groups=groups, bias=draw(st.booleans()))
        )  # fmt: skip
        channels = out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, draw(size))]
    return nn.Sequential(*layers), (1, first, draw(st.integers(9, 17)), draw(st.integers(9, 17)))


@settings(max_examples=30)
@given(convolutions())
def test_any_convolutions_equal_fvcore(case: tuple[nn.Module, tuple[int, int, int, int]]) -> None:
    network, shape = case
    assert counted(network, *shape).total.flops == fvcore_total(network, torch.zeros(shape))
