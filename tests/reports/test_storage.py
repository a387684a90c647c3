"""Storage by formula and as a file, on layers that can be added up by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from binmat.nn import BinaryConv2d, BinaryLinear, RPReLU
from binmat.quantizers import get_scheme
from binmat.reports import saved_bytes, stored_bits


@pytest.mark.parametrize(
    ("scheme", "floats"),
    [
        ("bnn", 8),  # the bias
        ("dorefa", 8),  # one scale in the layer does not count
        ("dorefa_signed", 8 + 8),
        ("xnor", 8 + 8),
        ("recu", 8 + 8),
        ("threshold", 8 + 8),  # nor does one threshold
        ("reactnet", 8 + 8 + 6),
    ],
)
def test_binary_convolution(scheme: str, floats: int) -> None:
    layer = BinaryConv2d(6, 8, 3, scheme=get_scheme(scheme))
    assert stored_bits(nn.Sequential(layer)) == {"0": 8 * 6 * 9 + 32 * floats}


def test_binary_linear() -> None:
    layer = BinaryLinear(10, 4, bias=False, scheme=get_scheme("reactnet"))
    assert stored_bits(nn.Sequential(layer)) == {"0": 10 * 4 + 32 * (4 + 10)}


def test_everything_else_takes_four_bytes_a_parameter() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.PReLU(5), RPReLU(5), nn.ReLU()).half()
    assert stored_bits(net) == {"0": 32 * (5 * 27 + 5), "1": 32 * 10, "2": 32 * 5, "3": 32 * 15}


def test_shared_layers_and_weights_count_once() -> None:
    conv, tied = nn.Conv2d(2, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
    tied.weight = conv.weight
    assert stored_bits(nn.Sequential(conv, conv, tied)) == {"0": 32 * 4}


def test_saved_bytes_is_the_size_of_the_file(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 50, 3), nn.BatchNorm2d(50))
    with (tmp_path / "net.pth").open("wb") as file:
        torch.save(net.state_dict(), file)
    assert saved_bytes(net) == (tmp_path / "net.pth").stat().st_size
