"""Binarization and binary convolutions: LceQuantize, LceBconv2d and what makes every case exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from binmat.errors import ExportError
from binmat.export.lce.border import padding_share
from binmat.export.lce.convolution import convolve
from binmat.export.lce.elementwise import Operand, arithmetic_like
from binmat.export.lce.emitter import Emitter, rule
from binmat.export.lce.layout import preferred_order
from binmat.export.lce.shapes import narrow
from binmat.export.lce.thresholds import popcount_thresholds
from binmat.export.lce.values import WORD, Bits, Result, Value, pack_signs, words
from binmat.export.lce.windows import Axis, axes, padded, with_zero_padding
from binmat.export.tflite.schema import Activation, Array, Padding
from binmat.transforms import lowered_ops  # noqa: F401  (registers the two operators)

#: An input of LceBconv2d that is not given.
ABSENT = -1


@dataclass
class BinaryConv:
    """A binary convolution. weight: int8 +-1 [O, I / groups, kh, kw]; multiplier, bias: float32 [O]."""

    bits: Bits
    weight: Array
    multiplier: Array
    bias: Array
    windows: tuple[Axis, Axis]
    groups: int
    pad_value: int

    @property
    def padded(self) -> bool:
        return any(axis.padding for axis in self.windows)

    @property
    def depth(self) -> int:
        """Elements of one sum."""
        return int(np.prod(self.weight.shape[1:]))


@dataclass
class Pending:
    """A convolution whose only reader is a binarization, which writes it with bits as output."""

    conv: BinaryConv


@rule(torch.ops.binmat.binarize.default)
def binarize(e: Emitter, x: Operand | Pending, threshold: Operand) -> Bits:
    if not isinstance(threshold, Tensor):
        raise ExportError("its threshold is computed by the network: it must be a constant")
    levels = threshold.detach().to(torch.float32).numpy()
    if isinstance(x, Pending):
        return _packed_output(e, x.conv, levels)
    value = e.preferred(x)
    if not levels.any() and value.tensor in e.without_negative_zero:
        return Bits(value.shape, value)
    shift = torch.from_numpy(_shift(levels)).reshape(-1, *[1] * (len(value.shape) - 2))
    return Bits(value.shape, arithmetic_like(e, "ADD", value, shift))


def _shift(levels: Array) -> Array:
    """What is added so that the sign of the sum is the binarization.

    LceQuantize reads the sign bit on ARM, so -0.0 would become -1. A sum is -0.0 only where both terms are, hence the
    last 0, which makes sure that the constant never is.
    """
    shift: Array = 0 - levels + np.float32(0)
    return shift


@rule(torch.ops.binmat.binary_conv2d.default)
def binary_conv2d(
    e: Emitter,
    x: Operand,
    weight: Operand,
    multiplier: Operand,
    bias: Operand,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    pad_value: int,
) -> Result | Pending:
    if not (isinstance(weight, Tensor) and isinstance(multiplier, Tensor) and isinstance(bias, Tensor)):
        raise ExportError("its weights, multiplier or bias are computed by the network: LceBconv2d takes constants")
    bits = x if isinstance(x, Bits) else Bits(e.value(x).shape, e.preferred(x))
    windows = axes(bits.shape[2:], e.output_shape[2:], weight.shape[2:], stride, padding, dilation)
    conv = BinaryConv(
        bits, weight.detach().numpy(), _canonical(multiplier), _canonical(bias), windows, groups, pad_value
    )
    if not np.isin(conv.weight, (-1, 1)).all():
        raise ExportError("its weights are not all -1 or +1: binarize them before lowering")
    if conv.groups > 1 and conv.weight.shape[1] == 1:
        return _depthwise(e, conv)
    if conv.groups > 1:
        return _grouped(e, conv)
    if e.packed_outputs and _gives_bits(e.node) and not (conv.padded and pad_value == 0):
        return Pending(conv)
    return _float_output(e, conv, e.output_shape)


def _canonical(values: Tensor) -> Array:
    """float32 without -0.0."""
    array: Array = values.detach().to(torch.float32).numpy() + np.float32(0)
    return array


def _gives_bits(node: Node) -> bool:
    """Whether a binarization with constant thresholds is all that reads the node."""
    (reader, *others) = node.users
    return not others and reader.target == torch.ops.binmat.binarize.default and reader.args[0] is node


def _float_output(e: Emitter, conv: BinaryConv, shape: Sequence[int]) -> Value:
    """One LceBconv2d with float output, and the border's correction where its own zero padding is not exact."""
    same = all(axis.same for axis in conv.windows)
    if conv.padded and conv.pad_value == 0:
        # LCE corrects the border in its output, wrongly where one window can reach over both sides of the image.
        if same and not e.portable and all(axis.size >= axis.reach for axis in conv.windows):
            return _bconv(e, conv, e.packed(conv.bits), shape, Padding.SAME, pad_ones=False)
        packed, padding = _padded_with_ones(e, conv)
        return _without_padding_share(e, conv, _bconv(e, conv, packed, shape, padding))
    packed, padding = _padded_bits(e, conv)
    return _bconv(e, conv, packed, shape, padding)


def _padded_bits(e: Emitter, conv: BinaryConv) -> tuple[int, Padding]:
    """The packed input with its padding of +1 or -1."""
    if not conv.padded:
        return e.packed(conv.bits), Padding.VALID
    if conv.pad_value == 1:
        return _padded_with_ones(e, conv)
    channels = conv.bits.shape[1]
    if channels % WORD == 0:
        return padded(e, _packed_value(e, conv.bits), conv.windows, -1).tensor, Padding.VALID
    # Words of -1 would set the tail bits past the last channel, which must stay 0: pad before packing.
    return e.quantize(padded(e, _signs(e, conv.bits), conv.windows, -1.0)), Padding.VALID


def _padded_with_ones(e: Emitter, conv: BinaryConv) -> tuple[int, Padding]:
    if all(axis.same for axis in conv.windows):
        return e.packed(conv.bits), Padding.SAME
    # The word 0 is +1 in every channel.
    return padded(e, _packed_value(e, conv.bits), conv.windows, 0).tensor, Padding.VALID


def _packed_value(e: Emitter, bits: Bits) -> Value:
    """The packed bits as a value with a channel per word."""
    n, c, h, w = bits.shape
    return Value(e.packed(bits), (n, words(c), h, w), preferred_order(4), torch.int32)


def _signs(e: Emitter, bits: Bits) -> Value:
    """A float with the signs of the bits, never -0.0."""
    return e.plain(bits) if bits.signs is None else bits.signs


def _bconv(
    e: Emitter,
    conv: BinaryConv,
    packed: int,
    shape: Sequence[int],
    padding: Padding,
    *,
    pad_ones: bool = True,
    thresholds: Array | None = None,
) -> Value:
    """LceBconv2d. shape: torch's, of the output in words where thresholds make it bits."""
    vertical, horizontal = conv.windows
    kernel = e.constant(pack_signs(conv.weight.transpose(0, 2, 3, 1)), np.int32)
    if thresholds is None:
        transform = [e.constant(conv.multiplier), e.constant(conv.bias), ABSENT]
        dtype = torch.float32
    else:
        transform = [ABSENT, ABSENT, e.constant(thresholds, np.int32)]
        dtype = torch.int32
    value = e.emit(
        "LceBconv2d",
        [packed, kernel, *transform],
        shape,
        dtype=dtype,
        custom=True,
        channels_in=conv.bits.shape[1],
        dilation_height_factor=vertical.dilation,
        dilation_width_factor=horizontal.dilation,
        fused_activation_function=int(Activation.NONE),
        pad_values=int(pad_ones),
        padding=int(padding),
        stride_height=vertical.stride,
        stride_width=horizontal.stride,
    )
    if thresholds is None:
        # LCE adds a bias that is never -0.0 last.
        e.without_negative_zero.add(value.tensor)
    return value


def _without_padding_share(e: Emitter, conv: BinaryConv, value: Value) -> Value:
    """Takes away what the padding of ones has added."""
    border = padding_share(conv.weight, conv.windows)
    correction = (0 - conv.multiplier * border.table.astype(np.float32)) + np.float32(0)
    if not correction.any():
        return value
    table = e.value(torch.from_numpy(correction).permute(2, 0, 1).unsqueeze(0))
    spread = e.gather(e.gather(table, border.rows, 2), border.columns, 3)
    corrected = arithmetic_like(e, "ADD", value, spread)
    e.without_negative_zero.add(corrected.tensor)
    return corrected


def _packed_output(e: Emitter, conv: BinaryConv, levels: Array) -> Bits:
    """LceBconv2d that compares the popcount with an integer and writes bits."""
    n, c, h, w = e.output_shape
    thresholds, flipped = popcount_thresholds(conv.depth, conv.multiplier, conv.bias, np.broadcast_to(levels, (c,)))
    conv.weight = np.where(flipped[:, None, None, None], -conv.weight, conv.weight)
    packed, padding = _padded_bits(e, conv)
    value = _bconv(e, conv, packed, (n, words(c), h, w), padding, thresholds=thresholds)
    return Bits(e.output_shape, packed=value.tensor)


def _grouped(e: Emitter, conv: BinaryConv) -> Value:
    """One LceBconv2d per group: the default kernel refuses groups."""
    inputs = conv.weight.shape[1]
    outputs = conv.weight.shape[0] // conv.groups
    n, _, h, w = e.output_shape
    parts = []
    for group in range(conv.groups):
        chosen = slice(group * outputs, (group + 1) * outputs)
        signs = narrow(e, _signs(e, conv.bits), 1, group * inputs, (group + 1) * inputs)
        part = BinaryConv(
            Bits(signs.shape, signs),
            conv.weight[chosen],
            conv.multiplier[chosen],
            conv.bias[chosen],
            conv.windows,
            1,
            conv.pad_value,
        )
        parts.append(_float_output(e, part, (n, outputs, h, w)))
    return e.concat(parts, 1)


def _depthwise(e: Emitter, conv: BinaryConv) -> Value:
    """A float depthwise convolution of +-1 by +-1: LceBconv2d computes these wrong.

    The weights stay bits in the file and are unpacked by LceDequantize. Sums of +-1 are exact in float32.
    """
    value = e.plain(conv.bits)
    padding = Padding.VALID
    if conv.padded and conv.pad_value == 0:
        value, padding = with_zero_padding(e, value, conv.windows)
    elif conv.padded:
        value = padded(e, value, conv.windows, float(conv.pad_value))
    outputs, _, kh, kw = conv.weight.shape
    packed = e.constant(pack_signs(conv.weight.transpose(1, 2, 3, 0)), np.int32)
    unpacked = e.emit("LceDequantize", [packed], (1, outputs, kh, kw), custom=True)
    kernel = e.permute(unpacked, (1, 0, 2, 3))
    total = convolve(e, value, kernel, e.constant(np.zeros(outputs)), conv.windows, padding, conv.groups)
    for kind, factors, neutral in (("MUL", conv.multiplier, 1), ("ADD", conv.bias, 0)):
        if (factors != neutral).any():
            total = arithmetic_like(e, kind, total, torch.from_numpy(factors).reshape(-1, 1, 1))
    return total
