"""Binary convolutions that give bits: one integer per channel says what multiplier, bias and threshold said."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lowered_graphs import dyadic, lowered, signs
from torch import Tensor

from binmat.transforms.lowering.fuse_bit_outputs import FuseBitOutputs

binarize, binary_conv2d = torch.ops.binmat.binarize, torch.ops.binmat.binary_conv2d


def block(outputs: int, depth: int, kernel: int, geometry: tuple[object, ...], *, layerwise: bool = False):
    weight, threshold = signs(outputs, depth, kernel, kernel), dyadic(1 if layerwise else outputs)
    # Zero and negative multipliers too: the popcount then decides nothing, or the other way round.
    multiplier, bias = dyadic(outputs) * (torch.arange(outputs) % 3 - 1), dyadic(outputs)

    def function(x: Tensor) -> Tensor:
        bits = binarize(x, torch.zeros(1))
        return binarize(binary_conv2d(bits, weight, multiplier, bias, *geometry), threshold) + 0.5

    return function


def targets(module: torch.fx.GraphModule) -> list[object]:
    return [node.target for node in module.graph.nodes if node.op == "call_function"]


@given(
    channels=st.sampled_from([(1, 1), (3, 5), (32, 32), (33, 7)]),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    dilation=st.sampled_from([1, 2]),
    pad_value=st.sampled_from([1, -1]),
    layerwise=st.booleans(),
    seed=st.integers(0, 99),
)
def test_bits_are_the_same(channels, kernel, stride, dilation, pad_value, layerwise, seed) -> None:
    torch.manual_seed(seed)
    depth, outputs = channels
    padding = dilation * (kernel - 1) // 2
    geometry = ([stride] * 2, [padding] * 2, [dilation] * 2, 1, pad_value)
    graph = lowered(block(outputs, depth, kernel, geometry, layerwise=layerwise), torch.zeros(1, depth, 7, 9))
    fused = FuseBitOutputs().apply(copy.deepcopy(graph.module))
    assert torch.ops.binmat.binary_conv2d_bits.default in targets(fused)
    assert binary_conv2d.default not in targets(fused)
    x = dyadic(1, depth, 7, 9)
    assert torch.equal(fused(x), graph.module(x))


@pytest.mark.parametrize(
    ("groups", "padding", "pad_value"), [(1, 1, 0), (2, 0, 1)], ids=["zero-padded", "grouped"]
)
def test_what_one_integer_cannot_say_stays(groups: int, padding: int, pad_value: int) -> None:
    geometry = ([1, 1], [padding] * 2, [1, 1], groups, pad_value)
    graph = lowered(block(4, 4 // groups, 3, geometry), torch.zeros(1, 4, 7, 9))
    before = targets(graph.module)
    assert targets(FuseBitOutputs().apply(graph.module)) == before


def test_a_convolution_that_others_read_too_stays() -> None:
    weight = signs(2, 2, 1, 1)

    def function(x: Tensor) -> Tensor:
        y = binary_conv2d(
            binarize(x, torch.zeros(1)), weight, torch.ones(2), torch.zeros(2), [1, 1], [0, 0], [1, 1], 1, 0
        )
        return binarize(y, torch.zeros(1)) + y

    graph = lowered(function, torch.zeros(1, 2, 3, 3))
    before = targets(graph.module)
    assert targets(FuseBitOutputs().apply(graph.module)) == before
