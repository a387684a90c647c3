"""Faults of the lowering: the graph that every backend writes is not the network."""

from __future__ import annotations

import operator as python_operator

import torch
from mutants.fault import Fault, Place
from mutants.graph_changes import (
    Change,
    argument,
    aten,
    constant_of,
    find,
    keyword,
    left_out,
    moved,
    one_element,
    operator,
    outputs,
    swapped,
)
from torch import Tensor, fx

_CONV = aten.convolution.default
_BINARIZE = torch.ops.binmat.binarize.default
_BINARY = torch.ops.binmat.binary_conv2d.default
_PADS, _DILATIONS = 4, 5


def _first_two_swapped(values: Tensor) -> Tensor:
    return torch.cat([values[1:2], values[:1], values[2:]])


def _state_handed_on(lowered: fx.GraphModule) -> None:
    """The network's new state is its old one."""
    output = lowered.graph.output_node()
    alpha, edges, _, fast = output.args[0]
    slow = lowered.graph.find_nodes(op="placeholder")[1]
    with lowered.graph.inserting_before(output):
        same = lowered.graph.call_function(aten.clone.default, (slow,))
    output.args = ((alpha, edges, same, fast),)


def _parts_swapped(lowered: fx.GraphModule) -> None:
    """The first two parts of a split."""
    split = find(lowered, aten.split.Tensor)
    for part in list(split.users):
        if part.target is python_operator.getitem and part.args[1] < 2:
            part.args = (split, 1 - part.args[1])


def _faults(place: Place, subject: str, changes: dict[str, Change]) -> list[Fault]:
    return [Fault(name, place, subject, change) for name, change in changes.items()]


LOWERING = [
    *_faults(
        "lowering",
        "float",
        {
            "ReLU6 for ReLU": operator(aten.relu.default, aten.hardtanh.default, lambda x: (x, 0.0, 6.0)),
            "ReLU for ReLU6": operator(aten.hardtanh.default, aten.relu.default, lambda x, *_: (x,)),
            "ReLU left out": left_out(aten.relu.default),
            "swish for hardswish": operator(aten.hardswish.default, aten.silu.default),
            "hardswish for swish": operator(aten.silu.default, aten.hardswish.default),
            "ELU left out": left_out(aten.elu.default),
            "leaky ReLU with another slope": argument(aten.leaky_relu.default, 1, 0.01),
            "PReLU with another slope": constant_of(aten._prelu_kernel.default, 1, moved(1e-3)),
            "PReLU left out": left_out(aten._prelu_kernel.default),
            "absolute value left out": left_out(aten.abs.default),
            "operands of a division swapped": swapped(aten.div.Tensor),
            "maximum for minimum": operator(aten.minimum.default, aten.maximum.default),
            "clamp with another upper bound": argument(aten.clamp.default, 2, 2.0),
            "softmax along another dimension": argument(aten._softmax.default, 1, 2),
            "padding counted by an average pool": argument(aten.avg_pool2d.default, 5, True),
            "average pool without ceil_mode": argument(aten.avg_pool2d.default, 4, False),
            "max pool without ceil_mode": argument(aten.max_pool2d_with_indices.default, 5, False),
            "group norm with another eps": argument(aten.native_group_norm.default, 7, 2e-5),
            "group norm with other groups": argument(aten.native_group_norm.default, 6, 4),
            "corners aligned no more": argument(aten.upsample_bilinear2d.default, 2, False, index=1),
            "bilinear for nearest": operator(
                aten.upsample_nearest2d.default, aten.upsample_bilinear2d.default, lambda x, size, *_: (x, size, False)
            ),
            "padding of zeros for another value": argument(aten.constant_pad_nd.default, 2, 0.0),
            "padding at other sides": argument(aten.constant_pad_nd.default, 1, [-1, 2, 1, 0]),
            "slice moved by one": operator(aten.slice.Tensor, aten.slice.Tensor, lambda x, dim, *_: (x, dim, 0, -1)),
            "depthwise convolution with another dilation": lambda lowered: [
                argument(_CONV, place, [1, 1], index=1)(lowered) for place in (_PADS, _DILATIONS)
            ],
            "kernel of a depthwise convolution transposed": constant_of(_CONV, 1, lambda w: w.transpose(2, 3), index=1),
            "kernel of a transposed convolution turned": constant_of(_CONV, 1, lambda w: w.flip(2, 3), index=3),
            "kernel of a grouped convolution mirrored": constant_of(_CONV, 1, lambda w: w.flip(3), index=2),
            "bias of a convolution left out": argument(_CONV, 2, None, index=4),
            "rows of a linear layer swapped": constant_of(aten.addmm.default, 2, _first_two_swapped),
        },
    ),
    *_faults(
        "lowering",
        "tokens",
        {
            "GELU by tanh": keyword(aten.gelu.default, approximate="tanh"),
            "matrix of a linear layer transposed": constant_of(aten.addmm.default, 2, lambda w: w.t(), index=1),
            "matrix product with the transpose left out": left_out(aten.transpose.int, index=1),
            "softmax over the queries": argument(aten._softmax.default, 1, 1),
            "mean over another dimension": argument(aten.mean.dim, 1, [2]),
            "minimum for maximum of a map": operator(aten.amax.default, aten.amin.default),
            "stacked in another order": argument(aten.stack.default, 0, lambda parts: parts[::-1]),
            "parts of a split swapped": _parts_swapped,
            "layer norm with another eps": argument(aten.native_layer_norm.default, 4, 2e-5),
            "attention scaled by another number": argument(aten.mul.Tensor, 1, 0.2501, index=1),
            "term of a sum left out": left_out(aten.add.Tensor, index=3),
        },
    ),
    *_faults(
        "lowering",
        "video",
        {
            "operands of a subtraction swapped": swapped(aten.sub.Tensor),
            "concatenated in another order": argument(aten.cat.default, 0, lambda parts: parts[::-1]),
            "hardsigmoid for sigmoid": operator(aten.sigmoid.default, aten.hardsigmoid.default),
            "tanh left out": left_out(aten.tanh.default),
            "clamp without its upper bound": argument(aten.clamp.default, 2, None),
            "clamp without its lower bound": argument(aten.clamp.default, 1, None),
            "corners aligned": argument(aten.upsample_bilinear2d.default, 2, True),
            "nearest for bilinear": operator(
                aten.upsample_bilinear2d.default, aten.upsample_nearest2d.default, lambda x, size, *_: (x, size)
            ),
            "outputs of one shape swapped": outputs(1, 0, 2, 3),
            "states of one shape swapped": outputs(0, 1, 3, 2),
            "one output for two": outputs(0, 0, 2, 3),
            "state never renewed": _state_handed_on,
            "thresholds 1e-6 higher": constant_of(_BINARIZE, 1, lambda t: t + 1e-6, index=1),
            "thresholds 1e-3 higher": constant_of(_BINARIZE, 1, lambda t: t + 1e-3, index=1),
            "thresholds negated": constant_of(_BINARIZE, 1, lambda t: -t, index=2),
            "one multiplier of a binary convolution 1e-6 larger": constant_of(_BINARY, 2, moved(1e-6)),
            "one bias of a binary convolution 1e-6 larger": constant_of(_BINARY, 3, moved(1e-6), index=1),
        },
    ),
    *_faults(
        "lowering",
        "bits",
        {
            "padding of zeros for ones": argument(_BINARY, 8, 0),
            "one binary weight turned": constant_of(_BINARY, 1, one_element(lambda value, _: -value)),
            "two channels of binary weights swapped": constant_of(_BINARY, 1, _first_two_swapped, index=1),
            "binary convolution with another dilation": lambda lowered: [
                argument(_BINARY, place, [1, 1], index=1)(lowered) for place in (5, 6)
            ],
            "depthwise binary kernel mirrored": constant_of(_BINARY, 1, lambda w: w.flip(3), index=2),
        },
    ),
    *_faults(
        "lowering",
        "zeros",
        {
            "-1 for the zeros behind a ReLU": constant_of(_BINARIZE, 1, lambda t: t + 1e-30, index=2),
            "padding of ones for zeros": argument(_BINARY, 8, 1),
        },
    ),
    *_faults("lowering", "dorefa", {"padding of zeros for {0, 1}": argument(_BINARY, 8, 0)}),
]

FLOAT32 = [
    *_faults(
        "float32",
        "float",
        {
            "float32: one weight of a convolution off by 2e-5": constant_of(_CONV, 1, moved(2e-5)),
            "float32: one bias of a convolution off by 2e-5": constant_of(_CONV, 2, moved(2e-5), index=4),
            "float32: one slope off by 2e-5": constant_of(aten._prelu_kernel.default, 1, moved(2e-5)),
            "float32: ReLU6 for ReLU": operator(aten.relu.default, aten.hardtanh.default, lambda x: (x, 0.0, 6.0)),
            "float32: one number off by 2e-5": argument(aten.sub.Tensor, 1, 0.250005),
            "float32: group norm with another eps": argument(aten.native_group_norm.default, 7, 1.1e-5),
        },
    ),
    *_faults(
        "float32",
        "tokens",
        {
            "float32: one weight of a linear layer off by 2e-5": constant_of(aten.addmm.default, 2, moved(2e-5)),
            "float32: one scale of a norm off by 2e-5": constant_of(aten.native_layer_norm.default, 2, moved(2e-5)),
            "float32: matrix of a linear layer transposed": constant_of(
                aten.addmm.default, 2, lambda w: w.t(), index=1
            ),
        },
    ),
    *_faults(
        "float32",
        "video",
        {
            "float32: one threshold off by 2e-5": constant_of(_BINARIZE, 1, moved(2e-5)),
            "float32: one multiplier off by 2e-5": constant_of(_BINARY, 2, moved(2e-5)),
            "float32: one binary weight turned": constant_of(_BINARY, 1, one_element(lambda value, _: -value)),
            "float32: states of one shape swapped": outputs(0, 1, 3, 2),
            "float32: operands of a subtraction swapped": swapped(aten.sub.Tensor),
        },
    ),
]
