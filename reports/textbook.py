"""The convention of textbooks and of most papers' FLOPs columns."""

from __future__ import annotations

from binmat.nn import BinaryLayer
from binmat.nn.operators import Kind

from .call_recorder import Call
from .convention import Convention, Cost
from .macs import input_scale_map_macs, macs_of


def _product(call: Call) -> Cost:
    if isinstance(call.module, BinaryLayer):
        return Cost(flops=input_scale_map_macs(call), bops=macs_of(call))
    return Cost(flops=macs_of(call))


TEXTBOOK = Convention(
    name="textbook",
    definition=(
        "One multiply-accumulate of a convolution, linear layer or matrix product is one operation, on bits 1/64; "
        "everything else is free."
    ),
    rules={Kind.PRODUCT: _product},
)
"""Counted: multiply-accumulates, one FLOP each in a float layer and one BOP in a binary one; OPs = FLOPs + BOPs / 64
(Bi-Real Net, ECCV 2018; ReActNet, ECCV 2020). XNOR-Net's map K, where a scheme uses it, is a convolution on floats.

Free: biases, norms, activation functions, scales and thresholds of binary layers, pooling, resizing, element-wise
arithmetic, moving data.

On a float network it equals fvcore's count of convolutions, linear layers and products, and half of
torch.utils.flop_counter's, for which a multiply-accumulate is two operations.
"""
