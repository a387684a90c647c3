"""Faults of the writer: the file is not the lowered graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
from mutants.fault import Fault
from mutants.file_changes import (
    Change,
    activation,
    constant,
    find,
    inputs,
    kind,
    left_out,
    moved,
    one_element,
    options,
)

from binmat.backends.lce import emitter
from binmat.backends.lce.tflite import builder as builder_module
from binmat.backends.lce.tflite.builder import ModelBuilder, Named
from binmat.backends.lce.tflite.schema import Activation, Array, Padding
from binmat.transforms.lowering import popcount_thresholds

#: Places of LceBconv2d's operands.
_KERNEL, _MULTIPLIER, _BIAS, _THRESHOLDS = 1, 2, 3, 4


def _first_two_swapped(values: Array) -> Array:
    values[[0, 1]] = values[[1, 0]]
    return values


def _reversed(operands: list[int]) -> list[int]:
    return operands[::-1]


def _transposed_no_more(builder: ModelBuilder) -> None:
    """A RESHAPE in the place of a TRANSPOSE: the shape is right."""
    op = find(builder, "TRANSPOSE")
    shape = builder.tensors[op.outputs[0]].shape
    sizes = builder.constant(np.array(shape, np.int32), "shape")
    op.kind, op.inputs, op.options, op.version = "RESHAPE", [op.inputs[0], sizes], {"new_shape": shape}, None


def _one_pixel_further(builder: ModelBuilder) -> None:
    """A slice that leaves a column out at its end leaves one out at its beginning."""
    for place in (1, 2):
        constant("STRIDED_SLICE", place, lambda bounds: np.add(bounds, [0, 0, 1, 0]))(builder)


def _changed_build(
    change: Callable[[Named, Named, dict[str, bytes]], tuple[Named, Named, dict[str, bytes]]],
) -> Callable[[], object]:
    """The names or the metadata of the whole file, not of models of some of its operators."""

    class Faulty(ModelBuilder):
        def build(
            self, inputs: Named, outputs: Named, description: str = "", metadata: Mapping[str, bytes] | None = None
        ) -> bytes:
            if metadata:
                inputs, outputs, metadata = change(inputs, outputs, dict(metadata))
            return super().build(inputs, outputs, description, metadata)

    return lambda: patch.object(emitter, "ModelBuilder", Faulty)


def _names_swapped(named: Named, first: int, second: int) -> Named:
    names = [name for name, _ in named]
    names[first], names[second] = names[second], names[first]
    return [(name, tensor) for name, (_, tensor) in zip(names, named, strict=True)]


def _metadata(change: Callable[[dict[str, object]], None]) -> Callable[[], object]:
    def changed(inputs: Named, outputs: Named, metadata: dict[str, bytes]) -> tuple[Named, Named, dict[str, bytes]]:
        content = json.loads(metadata["binmat"])
        change(content)
        return inputs, outputs, {"binmat": json.dumps(content).encode()}

    return _changed_build(changed)


@contextmanager
def _no_copies() -> Iterator[None]:
    with patch.object(builder_module, "with_copies", lambda operators, *_: list(operators)):
        yield


@contextmanager
def _ties_give_minus_one() -> Iterator[None]:
    with patch.object(popcount_thresholds, "is_negative", lambda x: x <= 0):
        yield


def _faults(subject: str, changes: dict[str, Change]) -> list[Fault]:
    return [Fault(f"writer: {name}", "writer", subject, change) for name, change in changes.items()]


_ONE_BIT = one_element(lambda value, _: value ^ 1, place=0)

WRITER = [
    *_faults(
        "float",
        {
            "RELU6 for RELU": kind("RELU", "RELU6"),
            "RELU for RELU6 in a convolution": activation(Activation.RELU6, Activation.RELU),
            "no activation for RELU6 in a convolution": activation(Activation.RELU6, Activation.NONE),
            "RELU6 for RELU_N1_TO_1 in a linear layer": activation(Activation.RELU_N1_TO_1, Activation.RELU6),
            "no activation for RELU_N1_TO_1 in a linear layer": activation(Activation.RELU_N1_TO_1, Activation.NONE),
            "RELU fused into a sum": options("ADD", index=2, activation=Activation.RELU),
            "SUB for ADD": kind("ADD", "SUB"),
            "ADD for SUB": kind("SUB", "ADD", index=2),
            "operands of SUB swapped": inputs("SUB", _reversed, index=2),
            "operands of DIV swapped": inputs("DIV", _reversed),
            "MAXIMUM for MINIMUM": kind("MINIMUM", "MAXIMUM"),
            "MAX for AVERAGE pool": kind("AVERAGE_POOL_2D", "MAX_POOL_2D"),
            "AVERAGE for MAX pool": kind("MAX_POOL_2D", "AVERAGE_POOL_2D"),
            "RELU6 for HARD_SWISH": kind("HARD_SWISH", "RELU6"),
            "TANH for LOGISTIC": kind("LOGISTIC", "TANH"),
            "another alpha of LEAKY_RELU": options("LEAKY_RELU", alpha=0.1001),
            "another beta of SOFTMAX": options("SOFTMAX", beta=1.001),
            "another stride of the last convolution": options("CONV_2D", index=2, stride_h=2),
            "another stride of a pool": options("MAX_POOL_2D", stride_h=1),
            "another dilation of a depthwise convolution": options("DEPTHWISE_CONV_2D", dilation_w=1),
            "VALID for SAME": options("CONV_2D", index=2, padding=Padding.VALID),
            "half_pixel_centers left out": options("RESIZE_BILINEAR", half_pixel_centers=False),
            "align_corners left out": options("RESIZE_BILINEAR", index=1, align_corners=False),
            "half_pixel_centers of nearest neighbours": options("RESIZE_NEAREST_NEIGHBOR", half_pixel_centers=True),
            "operands of CONCATENATION swapped": inputs("CONCATENATION", _reversed),
            "one weight of CONV_2D off by 2e-5": constant("CONV_2D", 1, moved(2e-5)),
            "one weight of DEPTHWISE_CONV_2D off by 2e-5": constant("DEPTHWISE_CONV_2D", 1, moved(2e-5)),
            "one bias of CONV_2D off by 2e-5": constant("CONV_2D", 2, moved(2e-5)),
            "bias of CONV_2D left out": constant("CONV_2D", 2, np.zeros_like),
            "one weight of TRANSPOSE_CONV off by 2e-5": constant("TRANSPOSE_CONV", 1, moved(2e-5)),
            "kernel of CONV_2D mirrored": constant("CONV_2D", 1, lambda w: w[:, :, ::-1], index=2),
            "two output channels of CONV_2D swapped": constant("CONV_2D", 1, _first_two_swapped),
            "two channels of DEPTHWISE_CONV_2D swapped": constant(
                "DEPTHWISE_CONV_2D", 1, lambda w: w[..., [1, 0, *range(2, w.shape[-1])]]
            ),
            "one slope of PRELU off by 2e-5": constant("PRELU", 1, moved(2e-5)),
            "another number added by PADV2": constant("PADV2", 2, lambda value: value * 1.001, index=1),
            "PAD before for PAD behind": constant("PAD", 1, lambda amounts: amounts[:, ::-1]),
            "STRIDED_SLICE one pixel further": _one_pixel_further,
            "corrections of an average pool left out": constant("MUL", 1, np.ones_like, index=3),
        },
    ),
    *_faults(
        "tokens",
        {
            "a transposition left out": _transposed_no_more,
            "MEAN along another axis": constant("MEAN", 1, lambda axes: axes + 1, index=2),
            "GELU approximate": options("GELU", approximate=True),
            "REDUCE_MIN for REDUCE_MAX": kind("REDUCE_MAX", "REDUCE_MIN"),
            "weights of FULLY_CONNECTED transposed": constant("FULLY_CONNECTED", 1, lambda w: w.T, index=1),
            "one weight of FULLY_CONNECTED off by 2e-5": constant("FULLY_CONNECTED", 1, moved(2e-5)),
            "bias of FULLY_CONNECTED left out": constant("FULLY_CONNECTED", 2, np.zeros_like),
            "operands of BATCH_MATMUL swapped": inputs("BATCH_MATMUL", _reversed),
            "adj_y of BATCH_MATMUL": options("BATCH_MATMUL", adj_y=True),
            "another axis of REDUCE_MAX": constant("REDUCE_MAX", 1, lambda axes: axes - 1),
            "another axis of SPLIT": constant("SPLIT", 0, lambda axis: axis - 1),
            "CONCATENATION along another axis": options("CONCATENATION", axis=2),
            "layer norm without its scale": constant("MUL", 1, np.ones_like, index=2),
        },
    ),
    *_faults(
        "video",
        {
            "RELU6 for RELU in a convolution": activation(Activation.RELU, Activation.RELU6),
            "no activation for RELU in a convolution": activation(Activation.RELU, Activation.NONE),
            "MINIMUM left out": constant("MINIMUM", 1, lambda bound: bound * 2),
            "one threshold off by 2e-5": constant("ADD", 1, moved(2e-5)),
            "thresholds negated": constant("ADD", 1, np.negative),
            "one multiplier of LceBconv2d off by 2e-5": constant("LceBconv2d", _MULTIPLIER, moved(2e-5)),
            "one bias of LceBconv2d off by 2e-5": constant("LceBconv2d", _BIAS, moved(2e-5), index=1),
            "two multipliers of LceBconv2d swapped": constant("LceBconv2d", _MULTIPLIER, _first_two_swapped),
            "one packed weight turned": constant("LceBconv2d", _KERNEL, _ONE_BIT),
            "another channels_in": options("LceBconv2d", channels_in=32),
            "padding of LceBconv2d VALID for SAME": options("LceBconv2d", index=1, padding=int(Padding.VALID)),
            "pad_values of ones for zeros": options("LceBconv2d", index=1, pad_values=1),
            "RELU fused into LceBconv2d": options(
                "LceBconv2d", fused_activation_function=int(Activation.RELU)
            ),
        },
    ),
    *_faults(
        "bits",
        {
            "one threshold of bit outputs one higher": constant(
                "LceBconv2d", _THRESHOLDS, one_element(lambda value, _: value + 1)
            ),
            "thresholds of bit outputs one lower": constant("LceBconv2d", _THRESHOLDS, lambda t: t - 1),
            "packed kernel mirrored": constant("LceBconv2d", _KERNEL, lambda w: w[:, :, ::-1]),
            "two output channels of packed weights swapped": constant(
                "LceBconv2d", _KERNEL, _first_two_swapped, index=1
            ),
            "one bit behind the last channel set": constant(
                "LceBconv2d", _KERNEL, one_element(lambda value, _: value | 1 << 20)
            ),
            "another dilation of LceBconv2d": options("LceBconv2d", index=1, dilation_width_factor=1),
            "another stride of LceBconv2d": options("LceBconv2d", stride_width=1),
            "one packed depthwise weight turned": constant("LceDequantize", 0, _ONE_BIT, index=1),
            "multiplication behind LceBconv2d left out": left_out("MUL", index=1),
        },
    ),
    *_faults(
        "zeros",
        {
            "-1 for the zeros behind a RELU": constant("ADD", 1, lambda shift: shift - 1e-30, index=-1),
            "border's correction left out": constant("GATHER", 0, np.zeros_like),
            "border's correction moved by one row": constant("GATHER", 1, lambda rows: np.roll(rows, 1)),
        },
    ),
    *_faults("dorefa", {"packed padding of 1 for 0": constant("PADV2", 2, np.negative)}),
    Fault("writer: a tie gives -1 in packed outputs", "patch", "ties", _ties_give_minus_one),
    Fault("writer: copies before operators that run in place left out", "patch", "tokens", _no_copies),
    Fault(
        "writer: names of two outputs swapped",
        "patch",
        "video",
        _changed_build(lambda ins, outs, about: (ins, _names_swapped(outs, 0, 1), about)),
    ),
    Fault(
        "writer: names of two output states swapped",
        "patch",
        "video",
        _changed_build(lambda ins, outs, about: (ins, _names_swapped(outs, 2, 3), about)),
    ),
    Fault(
        "writer: names of two input states swapped",
        "patch",
        "video",
        _changed_build(lambda ins, outs, about: (_names_swapped(ins, 1, 2), outs, about)),
    ),
    Fault(
        "writer: another word for the layout in the metadata",
        "patch",
        "video",
        _metadata(lambda content: content.update(layout="NCHW")),
    ),
    Fault(
        "writer: names of two outputs swapped in the metadata",
        "patch",
        "video",
        _metadata(lambda content: content.update(outputs=["edges", "alpha", "slow", "fast"])),
    ),
    Fault(
        "writer: metadata of another name",
        "patch",
        "video",
        _changed_build(lambda ins, outs, about: (ins, outs, {"other": about["binmat"]})),
    ),
]
