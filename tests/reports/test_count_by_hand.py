"""Counts of small networks against arithmetic."""

from __future__ import annotations

import operator

import pytest
import torch
from report_support import Wrapped, costs, counted
from torch import nn
from torch.nn import functional as F

from binmat.errors import UnknownNameError
from binmat.nn import BinaryConv2d, BinaryLinear, RPReLU
from binmat.nn.conv_gru import ConvGRU
from binmat.nn.recurrence import Recurrent
from binmat.quantizers import get_scheme
from binmat.reports import count


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "outputs"),
    [
        # stride 2 on an odd size: rows (9 + 2 - 3) // 2 + 1 = 5, columns (11 + 2 - 3) // 2 + 1 = 6
        (nn.Conv2d(3, 8, 3, stride=2, padding=1), (1, 3, 9, 11), 8 * 5 * 6 * 3 * 9, 8 * 5 * 6),
        # dilation 2 without padding: 10 - 2 * 2 = 6, 12 - 2 * 2 = 8
        (nn.Conv2d(4, 6, 3, dilation=2), (1, 4, 10, 12), 6 * 6 * 8 * 4 * 9, 6 * 6 * 8),
        (nn.Conv2d(8, 8, 5, padding=2, groups=8), (1, 8, 7, 7), 8 * 49 * 25, 8 * 49),
        (nn.Conv2d(8, 4, (1, 3), groups=2), (1, 8, 5, 5), 4 * 5 * 3 * 4 * 3, 4 * 5 * 3),
        # every input element meets the whole kernel of every output channel
        (nn.ConvTranspose2d(6, 4, 4, stride=2), (1, 6, 5, 5), 6 * 25 * 4 * 16, 4 * 12 * 12),
        (nn.Linear(10, 7), (1, 3, 10), 3 * 7 * 10, 3 * 7),
    ],
)
def test_layer(layer: nn.Module, shape: tuple[int, ...], macs: int, outputs: int) -> None:
    assert costs(nn.Sequential(layer), *shape) == {"0": (macs, macs + outputs)}
    layer.bias = None  # type: ignore[assignment]
    assert costs(nn.Sequential(layer), *shape) == {"0": (macs, macs)}


def test_what_stands_between_layers() -> None:
    net = nn.Sequential(
        nn.BatchNorm2d(4), nn.ReLU(), nn.Hardswish(), nn.Upsample(scale_factor=2), RPReLU(4), nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.PReLU(), nn.Sigmoid(),
    )  # fmt: skip
    pixels = 4 * 6 * 10
    assert costs(net, 1, 4, 6, 10) == {
        "0": (0, 2 * pixels),
        "1": (0, pixels),
        "3": (0, 4 * pixels),
        "4": (0, 4 * pixels),
        "5": (0, 2 * 4 * pixels),
        "6": (0, 4 * pixels),
        "7": (0, 4 * pixels),
        "8": (0, pixels),
        "9": (0, 4),
    }
    assert not counted(net, 1, 4, 6, 10).not_counted


def test_products_and_layers_called_as_functions() -> None:
    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(F.conv2d(x, m.conv.weight, m.conv.bias, stride=2))  # [1, 5, 3, 4]
        rows = y.flatten(2)  # [1, 5, 12]
        square = torch.bmm(rows, rows.transpose(1, 2))  # [1, 5, 5]
        return operator.matmul(square, rows) + torch.matmul(square, rows)

    bmm, matmul = 5 * 5 * 12, 5 * 12 * 5
    conv = 5 * 12 * 27
    assert costs(Wrapped(forward, conv=nn.Conv2d(3, 5, 3)), 1, 3, 7, 9) == {
        "conv2d": (conv, conv + 60),
        "relu": (0, 60),
        "bmm": (bmm, bmm),
        "matmul": (matmul, matmul),
        "matmul_1": (matmul, matmul),
    }


def test_layer_that_is_called_twice_costs_twice() -> None:
    net = Wrapped(lambda m, x: m.conv(m.conv(x)), conv=nn.Conv2d(2, 2, 1, bias=False))
    assert costs(net, 1, 2, 5, 5) == {"conv": (2 * 4 * 25, 2 * 4 * 25)}


@pytest.mark.parametrize(
    ("scheme", "options", "per_output", "per_input"),
    [
        ("bnn", {}, 0, 0),
        ("dorefa", {}, 1, 0),
        ("dorefa_signed", {}, 1, 0),
        ("xnor", {}, 1, 0),
        ("recu", {}, 1, 0),
        ("threshold", {}, 1, 1),
        ("reactnet", {}, 1, 1),
        ("bimatting", {"scale": "none"}, 0, 1),
        # the map K: a mean over channels, a 3x3 box filter of one channel, a product
        ("xnor", {"input_scale_map": True}, 2, 1),
    ],
)
def test_binary_convolution(scheme: str, options: dict[str, object], per_output: int, per_input: int) -> None:
    chosen = get_scheme(scheme, **options)
    net = nn.Sequential(BinaryConv2d(6, 8, 3, stride=2, padding=1, scheme=chosen))
    inputs, outputs, macs = 6 * 9 * 9, 8 * 5 * 5, 8 * 25 * 6 * 9
    box = 25 * 9 if chosen.input_scale_map else 0
    textbook, bimatting = counted(net, 1, 6, 9, 9).total, counted(net, 1, 6, 9, 9, convention="bimatting").total
    assert (textbook.flops, textbook.bops, textbook.ops) == (box, macs, box + macs / 64)
    bias = outputs
    assert (bimatting.flops, bimatting.bops) == (box + bias + per_output * outputs + per_input * inputs, macs)


def test_binary_linear() -> None:
    net = nn.Sequential(BinaryLinear(32, 10, bias=False, scheme=get_scheme("threshold")))
    assert costs(net, 3, 32) == {"0": (3 * 5.0, 3 * 5.0 + 3 * 10 + 3 * 32)}


def test_pooling_is_free_in_a_network_with_a_binary_layer() -> None:
    conv = BinaryConv2d(4, 4, 1, bias=False, scheme=get_scheme("bnn"))
    pools = (nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1))
    assert costs(nn.Sequential(*pools), 1, 4, 8, 8) == {"0": (0, 256), "1": (0, 64), "2": (0, 16)}
    assert costs(nn.Sequential(conv, *pools), 1, 4, 8, 8) == {"0": (16.0, 16.0)}


def test_recurrence_is_counted_once_per_frame_under_its_layers_names() -> None:
    net = Wrapped(lambda m, x: m.gru(x, x)[0], gru=ConvGRU(4))
    pixels = 5 * 7
    both_gates, candidate = 8 * pixels * 8 * 9, 4 * pixels * 8 * 9
    assert costs(net, 1, 4, 5, 7) == {
        "gru.ih.0": (both_gates, both_gates + 8 * pixels),
        "gru.hh.0": (candidate, candidate + 4 * pixels),
    }


def test_recurrence_with_context_inside_a_recurrence() -> None:
    class Outer(Recurrent):
        def __init__(self) -> None:
            super().__init__()
            self.inner = ConvGRU(2)
            self.gate = nn.Conv2d(1, 2, 1, bias=False)

        def step(self, x: torch.Tensor, h: torch.Tensor, *context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out, h = self.inner(x * self.gate(context[0]), h)
            return out, h

    net = Wrapped(lambda m, x: m.outer(x, x, x[:, :1])[0], outer=Outer())
    assert {name: pair[0] for name, pair in costs(net, 1, 2, 3, 3).items()} == {
        "outer.gate": 2 * 9,
        "outer.inner.ih.0": 4 * 9 * 4 * 9,
        "outer.inner.hh.0": 2 * 9 * 4 * 9,
    }


def test_what_no_rule_knows_is_listed() -> None:
    class Mystery(nn.Module):
        is_leaf = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = m.mystery(m.mystery(x)).logcumsumexp(1)
        return torch.cdist(x, x)

    for convention in ("textbook", "bimatting"):
        found = counted(Wrapped(forward, mystery=Mystery()), 1, 2, 3, 3, convention=convention)
        assert found.total.ops == 0
        assert found.not_counted == {
            "test_count_by_hand.Mystery": 2,
            "Tensor.logcumsumexp": 1,
            "torch.cdist": 1,
        }


def test_unknown_convention() -> None:
    with pytest.raises(UnknownNameError, match="no counting convention is called 'textbok': did you mean 'textbook'"):
        count(nn.Conv2d(1, 1, 1), "textbok", size=(4, 4))
