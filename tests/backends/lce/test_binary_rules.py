"""Binarization and binary convolutions: bit-exact against torch where multipliers are dyadic, in all three kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lce_support import assert_same, both, export
from lowered_graphs import dyadic, signs
from torch.nn import functional as F

from binmat.backends.lce.interpreter import KERNELS
from binmat.backends.lce.tflite.reader import read_model
from binmat.errors import ExportError
from binmat.transforms.lowering.sign_packing import pack_signs, unpack_signs

binarize = torch.ops.binmat.binarize
binary_conv2d = torch.ops.binmat.binary_conv2d

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
kernels = st.tuples(st.integers(1, 4), st.integers(1, 4))
strides = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.tuples(st.integers(0, 3), st.integers(0, 3))
dilations = st.tuples(st.integers(1, 4), st.integers(1, 4))
channels = st.sampled_from([1, 2, 3, 16, 31, 32, 33, 64, 70])
pad_values = st.sampled_from([0, 1, -1])
variants = st.sampled_from([("optimized", False), ("indirect", False), ("optimized", True), ("reference", True)])


def fits(size, kernel, padding, dilation):
    assume(all(n + 2 * p >= (k - 1) * d + 1 for n, p, k, d in zip(size, padding, kernel, dilation, strict=True)))


@given(st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_packing(channels, seed):
    values = np.where(np.random.default_rng(seed).random((2, channels)) < 0.5, np.float32(-1), np.float32(1))
    packed = pack_signs(values)
    assert packed.dtype == np.int32 and packed.shape == (2, -(-channels // 32))
    for channel in range(channels):
        assert ((packed[:, channel // 32] >> (channel % 32)) & 1 == (values[:, channel] < 0)).all()
    tail = packed[:, -1].astype(np.uint32) >> np.uint32((channels - 1) % 32)
    assert (tail <= 1).all()
    assert (unpack_signs(packed, channels) == values).all()


@pytest.mark.parametrize("channels", [1, 31, 32, 33, 130])
@pytest.mark.parametrize("shape", [(5, 3), ()])
def test_binarize(channels, shape):
    torch.manual_seed(0)
    x, threshold = dyadic(1, channels, *shape), dyadic(channels)
    x.view(1, channels, -1)[..., 0] = threshold
    assert_same(lambda x: binarize(x, threshold) * 1.0, x, tolerance=0)
    assert_same(lambda x: binarize(x, threshold[:1]), x, tolerance=0)


@pytest.mark.parametrize("threshold", [0.0, -0.0])
def test_zero_and_negative_zero_are_positive(threshold):
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 3.0, -3.0]).repeat(64).reshape(1, 64, 2, 3)
    model = assert_same(lambda x: binarize(x, torch.tensor([threshold])) * 1.0, x, tolerance=0)
    # ARM kernels read the raw sign bit: nothing that reaches LceQuantize may be -0.0, and no constant is.
    (quantize,) = (op for op in model.builder.operators if op.kind == "LceQuantize")
    shift = model.builder.producer(quantize.inputs[0])
    assert shift is not None and shift.kind == "ADD"
    added = model.builder.tensors[shift.inputs[1]].data
    assert added is not None and not np.signbit(added).any()


def test_signs_of_a_binary_convolution_need_no_canonical_zero():
    torch.manual_seed(0)
    weight, multiplier = signs(40, 32, 3, 3), dyadic(40)

    def function(x):
        bits = binarize(x, torch.zeros(1))
        y = binary_conv2d(bits, weight, multiplier, torch.zeros(40), [1, 1], [1, 1], [1, 1], 1, 0)
        return binarize(y, torch.zeros(1)), binarize((y + x[:, :1]).relu(), torch.zeros(1)), y.relu()

    operators = read_model(assert_same(function, dyadic(1, 32, 6, 6), tolerance=0).content).operators
    # The first binarization and the sum with x.
    assert operators["LceQuantize"] == 3 and operators["ADD"] == 2


@settings(deadline=None, max_examples=120)
@given(variants, channels, st.integers(1, 40), sizes, kernels, strides, paddings, dilations, pad_values)
def test_binary_convolution(variant, inputs, outputs, size, kernel, stride, padding, dilation, pad_value):
    fits(size, kernel, padding, dilation)
    torch.manual_seed(0)
    weight, multiplier, bias = signs(outputs, inputs, *kernel), dyadic(outputs), dyadic(outputs)
    multiplier[0] = 0
    threshold = dyadic(inputs)

    def function(x):
        bits = binarize(x, threshold)
        return binary_conv2d(bits, weight, multiplier, bias, stride, padding, dilation, 1, pad_value).relu()

    assert_same(function, dyadic(1, inputs, *size), tolerance=0, kernel=variant[0], portable=variant[1])


@settings(deadline=None, max_examples=60)
@given(variants, channels, sizes, kernels, paddings, pad_values, st.floats(1e-3, 10))
def test_binary_convolution_with_any_scale(variant, inputs, size, kernel, padding, pad_value, scale):
    fits(size, kernel, padding, (1, 1))
    torch.manual_seed(0)
    weight, multiplier, bias = signs(8, inputs, *kernel), torch.randn(8) * scale, torch.randn(8)

    def function(x):
        bits = binarize(x, torch.zeros(1))
        return binary_conv2d(bits, weight, multiplier, bias, [1, 1], padding, [1, 1], 1, pad_value)

    expected, actual, _ = both(function, torch.randn(1, inputs, *size), kernel=variant[0], portable=variant[1])
    depth = weight[0].numel()
    bound = 2.0**-22 * (2 * depth * multiplier.abs() + bias.abs())
    assert ((expected[0] - actual[0]).abs() <= bound.view(-1, 1, 1)).all()


@settings(deadline=None, max_examples=60)
@given(
    variants,
    st.tuples(st.integers(2, 3), st.sampled_from([2, 5, 32]), st.integers(1, 3)),
    sizes,
    strides,
    paddings,
    dilations,
    pad_values,
)
def test_grouped_binary_convolution(variant, grouping, size, stride, padding, dilation, pad_value):
    groups, inputs, outputs = grouping
    fits(size, (3, 2), padding, dilation)
    torch.manual_seed(0)
    weight, multiplier, bias = signs(outputs * groups, inputs, 3, 2), dyadic(outputs * groups), dyadic(outputs * groups)

    def function(x):
        bits = binarize(x, torch.full((1,), 0.25))
        return binary_conv2d(bits, weight, multiplier, bias, stride, padding, dilation, groups, pad_value)

    assert_same(function, dyadic(1, inputs * groups, *size), tolerance=0, kernel=variant[0], portable=variant[1])


@settings(deadline=None, max_examples=50)
@given(variants, channels, st.integers(1, 2), sizes, kernels, strides, paddings, dilations, pad_values)
def test_depthwise_binary_convolution(variant, inputs, times, size, kernel, stride, padding, dilation, pad_value):
    assume(inputs > 1)
    fits(size, kernel, padding, dilation)
    torch.manual_seed(0)
    outputs = inputs * times
    weight, multiplier, bias = signs(outputs, 1, *kernel), torch.randn(outputs), torch.randn(outputs)

    def function(x):
        bits = binarize(x, torch.full((1,), 0.25))
        return binary_conv2d(bits, weight, multiplier, bias, stride, padding, dilation, inputs, pad_value)

    # The sum is exact and multiplier and bias come as in torch: exact with any factors.
    model = assert_same(function, dyadic(1, inputs, *size), tolerance=0, kernel=variant[0], portable=variant[1])
    assert "LceBconv2d" not in read_model(model.content).operators


@settings(deadline=None, max_examples=80)
@given(
    variants,
    st.tuples(channels, st.integers(1, 70)),
    sizes,
    kernels,
    strides,
    paddings,
    st.sampled_from([1, -1]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_bits_straight_to_the_next_binarization(
    variant, widths, size, kernel, stride, padding, pad_value, shared, seed
):
    """Thresholds on the popcount equal the float32 comparison, with any multipliers, also negative and zero ones."""
    inputs, outputs = widths
    fits(size, kernel, padding, (1, 1))
    torch.manual_seed(seed)
    weight, multiplier = signs(outputs, inputs, *kernel), torch.randn(outputs)
    bias, threshold = torch.randn(outputs), torch.randn(1 if shared else outputs)
    multiplier[torch.rand(outputs) < 0.2] = 0
    # Put some sums exactly on the threshold.
    chosen = torch.rand(outputs) < 0.5
    total = torch.randint(-3, 4, (outputs,))
    bias = torch.where(chosen, threshold - total * multiplier, bias)

    def function(x):
        bits = binarize(x, torch.zeros(1))
        y = binary_conv2d(bits, weight, multiplier, bias, stride, padding, [1, 1], 1, pad_value)
        return binarize(y, threshold) * 1.0

    x = torch.randn(1, inputs, *size)
    model = assert_same(function, x, tolerance=0, kernel=variant[0], portable=variant[1])
    written = any(padding) and pad_value == 0
    assert read_model(model.content).operators["LceQuantize"] == 1 + written


def test_bits_are_packed_once_for_several_readers():
    torch.manual_seed(0)
    first, second = signs(8, 40, 3, 3), signs(5, 40, 1, 1)

    def function(x):
        bits = binarize(x, torch.zeros(1))
        a = binary_conv2d(bits, first, torch.ones(8), torch.zeros(8), [1, 1], [1, 1], [1, 1], 1, 0)
        b = binary_conv2d(bits, second, torch.ones(5), torch.zeros(5), [1, 1], [0, 0], [1, 1], 1, 0)
        return a, b, bits + 1

    model = assert_same(function, torch.randn(1, 40, 6, 6), tolerance=0)
    assert read_model(model.content).operators["LceQuantize"] == 1


def test_a_chain_of_packed_outputs():
    torch.manual_seed(0)
    weights = [signs(64, 64, 3, 3) for _ in range(4)]
    factors = [(torch.randn(64), torch.randn(64), torch.randn(64)) for _ in weights]

    def function(x):
        bits = binarize(x, torch.zeros(1))
        for weight, (multiplier, bias, threshold) in zip(weights, factors, strict=True):
            bits = binarize(binary_conv2d(bits, weight, multiplier, bias, [1, 1], [1, 1], [1, 1], 1, 1), threshold)
        return bits

    operators = read_model(assert_same(function, torch.randn(1, 64, 8, 8), tolerance=0).content).operators
    assert operators == {"ADD": 1, "LceQuantize": 1, "LceBconv2d": 4, "LceDequantize": 1}
    without = export(function, [torch.randn(1, 64, 8, 8)], fused=False)
    assert read_model(without.content).operators["LceQuantize"] == 5


def test_bits_through_views_and_pools():
    torch.manual_seed(0)
    weight = signs(7, 35, 1, 1)

    def function(x):
        bits = binarize(x, torch.zeros(1)).unsqueeze(2).unsqueeze(3)
        y = binary_conv2d(bits, weight, torch.ones(7), torch.zeros(7), [1, 1], [0, 0], [1, 1], 1, 0)
        return y.flatten(1), F.max_pool2d(bits.expand(1, 35, 4, 4), 2)

    assert_same(function, torch.randn(1, 35), tolerance=0)


def test_native_zero_padding_only_where_it_is_exact():
    torch.manual_seed(0)
    weight = signs(8, 32, 3, 3)

    def operators(size, stride, dilation, portable=False):
        def function(x):
            bits = binarize(x, torch.zeros(1))
            pad = [dilation, dilation]
            return binary_conv2d(
                bits, weight, torch.ones(8), torch.zeros(8), [stride, stride], pad, [dilation, dilation], 1, 0
            )

        model = assert_same(function, torch.randn(1, 32, size, size), tolerance=0, portable=portable)
        return read_model(model.content).operators

    assert "GATHER" not in operators(9, 1, 1)
    assert "GATHER" not in operators(9, 1, 4)
    assert operators(8, 1, 4)["GATHER"] == 2
    assert operators(8, 2, 1)["GATHER"] == 2
    assert operators(9, 1, 1, portable=True)["GATHER"] == 2


@pytest.mark.parametrize("kind", ["dense", "depthwise", "grouped", "stride 2"])
def test_weights_take_one_bit_each(kind):
    torch.manual_seed(0)
    inputs, groups, stride = {
        "dense": (256, 1, 1),
        "depthwise": (1, 2048, 1),
        "grouped": (128, 2, 1),
        "stride 2": (256, 1, 2),
    }[kind]
    outputs = 2048 if kind == "depthwise" else 256
    weight = signs(outputs, inputs, 3, 3)

    def function(x):
        bits = binarize(x, torch.zeros(1))
        return binary_conv2d(
            bits, weight, torch.ones(outputs), torch.zeros(outputs), [stride] * 2, [1, 1], [1, 1], groups, 0
        )

    # An image large enough that a correction stored per pixel would show.
    model = export(function, [torch.randn(1, inputs * groups, 32, 32)])
    factors = 2 * 4 * outputs
    border = 3 * 3 * 4 * outputs if kind == "stride 2" else 0
    assert len(model.content) <= weight.numel() / 8 + factors + border + 5000


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_agree_on_a_portable_model(kernel):
    torch.manual_seed(0)
    weight, factors = signs(16, 35, 3, 3), [dyadic(16), dyadic(16)]

    def function(x):
        bits = binarize(x, torch.zeros(1))
        return [binary_conv2d(bits, weight, *factors, [2, 2], [1, 1], [1, 1], 1, pad) for pad in (0, 1, -1)]

    assert_same(function, torch.randn(1, 35, 8, 8), tolerance=0, kernel=kernel, portable=True)


def test_xnnpack_runs_the_float_operators():
    torch.manual_seed(0)
    weight, first = signs(32, 1, 3, 3), torch.randn(32, 3, 3, 3)

    def function(x):
        y = F.conv2d(x, first, None, 2, 1).relu()
        y = binary_conv2d(
            binarize(y, torch.full((1,), 0.5)), weight, torch.ones(32), torch.zeros(32), [1, 1], [1, 1], [1, 1], 32, 0
        )
        return F.interpolate(y, scale_factor=2, mode="bilinear")

    assert_same(function, torch.randn(1, 3, 16, 16), tolerance=1e-5, xnnpack=True)


def test_weights_that_are_not_signs_are_refused():
    def function(x):
        bits = binarize(x, torch.zeros(1))
        return binary_conv2d(
            bits, torch.zeros(4, 3, 1, 1, dtype=torch.int8), torch.ones(4), torch.zeros(4), [1, 1], [0, 0], [1, 1], 1, 0
        )

    with pytest.raises(ExportError, match=r"not all -1 or \+1"):
        export(function, [torch.randn(1, 3, 2, 2)])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("groups", [1, 2])
def test_without_biases_sums_cancel_as_in_torch(kernel: str, groups: int) -> None:
    """Two convolutions of equal multiplier, as behind new batch norms: half their sums are 0, whose sign is +1."""
    x, weights = signs(1, 64, 9, 9).float(), [signs(24, 64 // groups, 3, 3) for _ in range(3)]
    multiplier = torch.full((24,), 0.999995)

    def function(x: torch.Tensor) -> torch.Tensor:
        bits = binarize(x, torch.zeros(1))
        first, second, third = (
            binary_conv2d(bits, weight, multiplier, torch.zeros(24), [1, 1], [1, 1], [1, 1], groups, 0)
            for weight in weights
        )
        return binarize(first + second, torch.zeros(1)) + binarize(second - third, torch.zeros(1))

    assert_same(function, x, tolerance=0, kernel=kernel, portable=kernel == "reference")
