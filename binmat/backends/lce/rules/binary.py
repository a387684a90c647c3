"""Binarization and binary convolutions: LceQuantize, LceBconv2d and what makes every case exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from binmat.backends.lce.emitter import Emitter, rule
from binmat.backends.lce.layout import preferred_order
from binmat.backends.lce.padding import is_same, padded, with_zero_padding
from binmat.backends.lce.rules.convolution import convolve
from binmat.backends.lce.rules.elementwise import Ints, Operand, arithmetic_like
from binmat.backends.lce.rules.shapes import narrow
from binmat.backends.lce.tflite.schema import Activation, Array, Padding
from binmat.backends.lce.values import Bits, Value
from binmat.errors import ExportError
from binmat.transforms.lowering import binary_operators  # noqa: F401  (registers the operators)
from binmat.transforms.lowering.padding_share import padding_share
from binmat.transforms.lowering.sign_packing import WORD, pack_signs, words
from binmat.transforms.lowering.windows import Axis, axes

#: An input of LceBconv2d that is not given.
ABSENT = -1


@dataclass
class BinaryConv:
    """A binary convolution of +-1. weight: int8 [O, I / groups, kh, kw]."""

    bits: Bits
    weight: Array
    windows: tuple[Axis, Axis]
    groups: int
    pad_value: int

    @property
    def padded(self) -> bool:
        return any(axis.padding for axis in self.windows)


@dataclass
class ScaledConv(BinaryConv):
    """One with float output, sum * multiplier + bias. multiplier, bias: float32 [O]."""

    multiplier: Array
    bias: Array


@rule(torch.ops.binmat.binarize.default)
def binarize(e: Emitter, x: Operand, threshold: Operand) -> Bits:
    if not isinstance(threshold, Tensor):
        raise ExportError("its threshold is computed by the network: it must be a constant")
    levels = threshold.detach().to(torch.float32).numpy()
    value = e.preferred(x)
    if not levels.any() and value.tensor in e.without_negative_zero:
        return Bits(value.shape, value)
    # LceQuantize reads the sign bit on ARM, so -0.0 would become -1. A sum is -0.0 only where both terms are, and
    # adding 0 makes sure that the constant never is.
    shift = torch.from_numpy(0 - levels + np.float32(0)).reshape(-1, *[1] * (len(value.shape) - 2))
    return Bits(value.shape, arithmetic_like(e, "ADD", value, shift))


@rule(torch.ops.binmat.binary_conv2d.default)
def binary_conv2d(e: Emitter, x: Operand, weight: Tensor, multiplier: Tensor, bias: Tensor, *geometry: Any) -> Value:
    if not all(isinstance(constant, Tensor) for constant in (weight, multiplier, bias)):
        raise ExportError("its weights, multiplier or bias are computed by the network: LceBconv2d takes constants")
    # Adding 0 makes +0.0 of -0.0.
    factors = [values.detach().to(torch.float32).numpy() + np.float32(0) for values in (multiplier, bias)]
    conv = ScaledConv(*_read(e, x, weight, *geometry), *factors)
    if conv.groups > 1 and conv.weight.shape[1] == 1:
        return _depthwise(e, conv)
    write = _grouped if conv.groups > 1 else _float_output
    if conv.bias.any() or _scales_exactly(conv):
        return write(e, conv)
    # LCE's rounding depends on the sum. Sums that cancel with a bias of zero, as behind a new batch norm, would leave
    # a residue on the threshold of the next binarization. Multiplied by itself the sum is torch's, bit for bit.
    sums = write(e, replace(conv, multiplier=np.ones_like(conv.multiplier)))
    return arithmetic_like(e, "MUL", sums, torch.from_numpy(conv.multiplier).reshape(-1, 1, 1))


def _scales_exactly(conv: ScaledConv) -> bool:
    """Whether float32 holds every sum of products times its multiplier: where that ends in enough zero bits."""
    most = (1 << int(conv.weight[0].size).bit_length()) - 1
    return not (conv.multiplier.view(np.int32) & most).any()


@rule(torch.ops.binmat.binary_conv2d_bits.default)
def binary_conv2d_bits(e: Emitter, x: Operand, weight: Tensor, thresholds: Tensor, *geometry: Any) -> Bits:
    """LceBconv2d compares the popcount with an integer and writes bits."""
    conv = BinaryConv(*_read(e, x, weight, *geometry))
    packed, padding = _padded_bits(e, conv)
    return Bits(e.output_shape, packed=_bconv(e, conv, packed, padding, thresholds=thresholds.numpy()).tensor)


def _read(
    e: Emitter, x: Operand, weight: Tensor, stride: Ints, padding: Ints, dilation: Ints, groups: int, pad_value: int
) -> tuple[Bits, Array, tuple[Axis, Axis], int, int]:
    """The fields of a :class:`BinaryConv`."""
    bits = x if isinstance(x, Bits) else Bits(e.value(x).shape, e.preferred(x))
    signs: Array = weight.detach().numpy()
    if not np.isin(signs, (-1, 1)).all():
        raise ExportError("its weights are not all -1 or +1: binarize them before lowering")
    windows = axes(bits.shape[2:], e.output_shape[2:], weight.shape[2:], stride, padding, dilation)
    return bits, signs, windows, groups, pad_value


def _float_output(e: Emitter, conv: ScaledConv) -> Value:
    """One LceBconv2d with float output, and the border's correction where its own zero padding is not exact."""
    if conv.pad_value != 0 or not conv.padded:
        return _scaled(e, conv, *_padded_bits(e, conv))
    # LCE corrects the border in its output, wrongly where one window can reach over both sides of the image.
    if not e.portable and all(is_same(axis) and axis.size >= axis.reach for axis in conv.windows):
        return _scaled(e, conv, e.packed(conv.bits), Padding.SAME, pad_ones=False)
    return _without_padding_share(e, conv, _scaled(e, conv, *_padded_with_ones(e, conv)))


def _scaled(e: Emitter, conv: ScaledConv, packed: int, padding: Padding, *, pad_ones: bool = True) -> Value:
    value = _bconv(e, conv, packed, padding, scaling=(conv.multiplier, conv.bias), pad_ones=pad_ones)
    # LCE adds a bias that is never -0.0 last.
    e.without_negative_zero.add(value.tensor)
    return value


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
    if all(map(is_same, conv.windows)):
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
    padding: Padding,
    *,
    scaling: tuple[Array, Array] | None = None,
    thresholds: Array | None = None,
    pad_ones: bool = True,
) -> Value:
    """LceBconv2d on packed bits. scaling: multiplier and bias of a float output; thresholds: of an output in words."""
    vertical, horizontal = conv.windows
    kernel = e.constant(pack_signs(conv.weight.transpose(0, 2, 3, 1)), np.int32)
    transform = [ABSENT, ABSENT] if scaling is None else [e.constant(values) for values in scaling]
    transform.append(ABSENT if thresholds is None else e.constant(thresholds, np.int32))
    outputs = len(conv.weight)
    return e.emit(
        "LceBconv2d",
        [packed, kernel, *transform],
        (conv.bits.shape[0], outputs if thresholds is None else words(outputs), vertical.out, horizontal.out),
        dtype=torch.float32 if thresholds is None else torch.int32,
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


def _without_padding_share(e: Emitter, conv: ScaledConv, value: Value) -> Value:
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


def _grouped(e: Emitter, conv: ScaledConv) -> Value:
    """One LceBconv2d per group: the default kernel refuses groups."""
    outputs, inputs = len(conv.weight) // conv.groups, conv.weight.shape[1]
    parts = []
    for group in range(conv.groups):
        chosen = slice(group * outputs, (group + 1) * outputs)
        signs = narrow(e, _signs(e, conv.bits), 1, group * inputs, (group + 1) * inputs)
        part = replace(
            conv,
            bits=Bits(signs.shape, signs),
            weight=conv.weight[chosen],
            multiplier=conv.multiplier[chosen],
            bias=conv.bias[chosen],
            groups=1,
        )
        parts.append(_float_output(e, part))
    return e.concat(parts, 1)


def _depthwise(e: Emitter, conv: ScaledConv) -> Value:
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
