"""Every float rule against torch, through the interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lce_support import assert_same, both, export
from torch.nn import functional as F

from binmat.backends.lce.tflite.reader import read_model
from binmat.errors import ExportError

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (1, 6, 7, 9))


POINTWISE = {
    "add": lambda x, y: x + y,
    "add alpha": lambda x, y: torch.add(x, y, alpha=0.5),
    "add scalar": lambda x, y: x + 2.5,
    "sub": lambda x, y: x - y,
    "sub alpha": lambda x, y: torch.sub(x, y, alpha=3),
    "rsub": lambda x, y: 1 - x,
    "rsub alpha": lambda x, y: torch.rsub(x, y, alpha=2),
    "mul": lambda x, y: x * y,
    "mul scalar": lambda x, y: x * 0.3,
    "div": lambda x, y: x / (y.abs() + 0.5),
    "div scalar": lambda x, y: x / 3,
    "reciprocal": lambda x, y: 1 / (x.abs() + 1),
    "per channel constant": lambda x, y: x * torch.arange(6.0).reshape(1, 6, 1, 1) + torch.arange(6.0).reshape(6, 1, 1),
    "column constant": lambda x, y: x + torch.arange(9.0),
    "row constant": lambda x, y: x + torch.arange(7.0).reshape(7, 1),
    "constant first": lambda x, y: torch.arange(9.0) - x,
    "neg": lambda x, y: -x,
    "abs": lambda x, y: x.abs(),
    "exp": lambda x, y: x.exp(),
    "log": lambda x, y: (x.abs() + 0.1).log(),
    "sqrt": lambda x, y: x.abs().sqrt(),
    "rsqrt": lambda x, y: (x.abs() + 0.1).rsqrt(),
    "square": lambda x, y: x**2,
    "pow": lambda x, y: (x.abs() + 0.1) ** 1.7,
    "cube": lambda x, y: x**3,
    "floor": lambda x, y: (3 * x).floor(),
    "sign": lambda x, y: torch.sign(x * (y > 0)),
    "minimum": torch.minimum,
    "maximum": torch.maximum,
    "compare": lambda x, y: (x >= y, x > y, x <= y, x < y, x == y, x != y),
    "compare scalar": lambda x, y: (x >= 0.1, x > 0.1, x < 0.1, x <= 0.1),
    "mask": lambda x, y: (x > 0).float() * y,
    "bool times float": lambda x, y: (x > 0) * y,
    "logic": lambda x, y: ((x > 0) & (y > 0), (x > 0) | (y > 0), ~(x > 0)),
    "where": lambda x, y: torch.where(x > 0, x, y),
    "where scalar": lambda x, y: torch.where(x > 0, x, 0.0),
    "where scalars": lambda x, y: torch.where(x >= 0, 1.0, -1.0),
    "masked fill": lambda x, y: x.masked_fill(y > 0, 2.0),
    "clamp": lambda x, y: x.clamp(-0.3, 0.7),
    "clamp 0 1": lambda x, y: x.clamp(0, 1),
    "clamp min": lambda x, y: x.clamp(min=0.2),
    "clamp max": lambda x, y: x.clamp(max=0.2),
    "clamp by tensors": lambda x, y: aten.clamp.Tensor(x, y, y + 1),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
    "lerp": lambda x, y: torch.lerp(x, y, 0.25),
    "to bool": lambda x, y: x.to(torch.bool),
    "relu": lambda x, y: x.relu(),
    "relu6": lambda x, y: F.relu6(4 * x),
    "hardtanh": lambda x, y: F.hardtanh(x),
    "hardtanh range": lambda x, y: F.hardtanh(x, -0.5, 2.0),
    "hardswish": lambda x, y: F.hardswish(3 * x),
    "hardsigmoid": lambda x, y: F.hardsigmoid(3 * x),
    "sigmoid": lambda x, y: torch.sigmoid(4 * x),
    "tanh": lambda x, y: torch.tanh(2 * x),
    "silu": lambda x, y: F.silu(x),
    "leaky relu": lambda x, y: F.leaky_relu(x, 0.2),
    "leaky relu that is the identity": lambda x, y: F.leaky_relu(x, 1.0),
    "prelu": lambda x, y: F.prelu(x, torch.linspace(-1, 1, 6)),
    "prelu shared": lambda x, y: F.prelu(x, torch.tensor([0.25])),
    "elu": lambda x, y: F.elu(x),
    "elu alpha": lambda x, y: F.elu(x, 0.5),
    "celu": lambda x, y: F.celu(x, 0.7),
    "selu": lambda x, y: F.selu(x),
    "gelu tanh": lambda x, y: F.gelu(x, approximate="tanh"),
    "softplus": lambda x, y: F.softplus(5 * x),
    "mish": lambda x, y: F.mish(x),
    "glu": lambda x, y: F.glu(x, 1),
    "softmax channels": lambda x, y: x.softmax(1),
    "softmax columns": lambda x, y: x.softmax(3),
    "mean": lambda x, y: x.mean((2, 3), keepdim=True),
    "mean flat": lambda x, y: x.mean((2, 3)),
    "mean channels": lambda x, y: x.mean(1),
    "mean of all": lambda x, y: x.mean(),
    "sum": lambda x, y: (x.sum(1, keepdim=True), x.sum((0, 2)), x.sum()),
    "amax": lambda x, y: (x.amax(1), x.amin((2, 3))),
    "var": lambda x, y: (x.var((2, 3)), x.var((1, 2, 3), keepdim=True, correction=0), x.std(1)),
    "var mean": lambda x, y: torch.var_mean(x, (2, 3)),
    "group norm": lambda x, y: F.group_norm(x, 3, torch.arange(6.0), torch.ones(6), 1e-3),
    "instance norm": lambda x, y: F.instance_norm(x),
    "layer norm": lambda x, y: F.layer_norm(x, (9,), torch.arange(9.0), torch.ones(9)),
    "layer norm of images": lambda x, y: F.layer_norm(x, (6, 7, 9)),
    "batch norm": lambda x, y: F.batch_norm(x, torch.arange(6.0), torch.arange(6.0) + 0.5, torch.ones(6) * 2),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_function(name):
    assert_same(POINTWISE[name], image(), image(), tolerance=1e-5)


MOVING = {
    "flatten": lambda x: x.flatten(1),
    "view": lambda x: x.view(1, 2, 3, 7, 9),
    "view of batch": lambda x: x.unsqueeze(0).view(1, 1, 6, 7, 9),
    "merge rows and columns": lambda x: x.view(1, 6, 63),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "permute back": lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2) + 1,
    "transpose": lambda x: x.transpose(1, 3),
    "tokens": lambda x: x.flatten(2).transpose(1, 2),
    "tokens and back": lambda x: (x.flatten(2).transpose(1, 2) * 2).transpose(1, 2).reshape(1, 6, 7, 9),
    "pooled to a vector": lambda x: x.mean((2, 3), keepdim=True).flatten(1).unsqueeze(2),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "squeeze all": lambda x: x[:, :1].squeeze(),
    "unsqueeze": lambda x: x.unsqueeze(2),
    "slice": lambda x: (x[:, 1:4], x[:, :, 2:], x[..., :-2], x[:, ::2], x[..., 1:8:3]),
    "slice scatter": lambda x: tuple(
        x.slice_scatter(torch.ones_like(x.narrow(dim, start, size)) * 2, dim, start, start + size)
        for dim, start, size in ((1, 1, 2), (1, 0, 3), (2, 2, x.shape[2] - 2), (3, 0, x.shape[3]))
    ),
    "select": lambda x: (x[:, 2], x[0], x[..., -1]),
    "chunk": lambda x: x.chunk(2, 1),
    "split": lambda x: x.split(4, 1),
    "split sizes": lambda x: x.split([1, 5], 1),
    "split rows": lambda x: x.split([3, 4], 2),
    "unbind": lambda x: x.unbind(1),
    "cat": lambda x: torch.cat([x, x + 1], 1),
    "cat rows": lambda x: torch.cat([x, x * 2, x], 2),
    "cat with a constant": lambda x: torch.cat([x, torch.ones(1, 2, 7, 9)], 1),
    "cat with nothing": lambda x: torch.cat([torch.zeros(0), x, x], 1),
    "cat of layouts": lambda x: torch.cat([x.permute(0, 2, 3, 1), torch.ones(1, 7, 9, 2)], 3),
    "stack": lambda x: torch.stack([x, x + 1], 1),
    "expand": lambda x: x[:, :1].expand(1, 4, 7, 9),
    "expand batch": lambda x: x.expand(2, 6, 7, 9),
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "pad": lambda x: F.pad(x, (1, 2, 0, 3), value=0.5),
    "crop by padding": lambda x: F.pad(x, (-1, 2, 1, -2)),
    "reflect": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"),
    "flip": lambda x: x.flip(1, 3),
    "roll": lambda x: x.roll(2, 3).roll((1, -1), (2, 3)),
    "index select": lambda x: x.index_select(1, torch.tensor([2, 0, 5])),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x[:, :, :6, :6], 3),
    "channel shuffle": lambda x: F.channel_shuffle(x, 3),
    "clone": lambda x: x.clone().contiguous().detach(),
    "zeros like": lambda x: torch.zeros_like(x) + x.new_ones(1, 6, 1, 1),
    "attention": lambda x: torch.bmm(x[0].flatten(1).unsqueeze(0), x[0].flatten(1).t().unsqueeze(0)).softmax(-1),
    "squeeze and excite": lambda x: x * F.linear(x.mean((2, 3)), torch.ones(6, 6) / 7).sigmoid().view(1, 6, 1, 1),
    "row of channels": lambda x: x * x.mean((2, 3))[0].reshape(6, 1, 1),
}


@pytest.mark.parametrize("name", MOVING)
def test_movement(name):
    assert_same(MOVING[name], image(), tolerance=1e-6)


def test_pixel_shuffle():
    assert_same(lambda x: F.pixel_shuffle(x, 2), image(1, 12, 5, 3), tolerance=0)


sizes = st.integers(1, 3)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["plain", "depthwise", "multiplied", "grouped"]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(sizes, sizes),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.booleans(),
    st.booleans(),
)
def test_convolution(kind, size, kernel, stride, padding, dilation, bias, relu):
    assume(all(s + 2 * p >= (k - 1) * d + 1 for s, p, k, d in zip(size, padding, kernel, dilation, strict=True)))
    torch.manual_seed(0)
    groups, inputs, outputs = {
        "plain": (1, 3, 5),
        "depthwise": (4, 4, 4),
        "multiplied": (3, 3, 6),
        "grouped": (2, 4, 6),
    }[kind]
    weight = torch.randn(outputs, inputs // groups, *kernel)
    b = torch.randn(outputs) if bias else None

    def function(x):
        y = F.conv2d(x, weight, b, stride, padding, dilation, groups)
        return y.relu() if relu else y

    operators = read_model(assert_same(function, image(1, inputs, *size), tolerance=5e-6).content).operators
    assert operators["DEPTHWISE_CONV_2D" if kind in ("depthwise", "multiplied") else "CONV_2D"] == 1


def test_computed_kernel():
    assert_same(lambda x, w: F.conv2d(x, w, None, 1, 1), image(1, 3, 6, 5), image(4, 3, 3, 3), tolerance=5e-6)


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(sizes, sizes),
    st.integers(0, 1),
    st.integers(0, 1),
)
def test_transposed_convolution(size, kernel, stride, padding, extra):
    assume(all(extra < s for s in stride))
    assume(all((n - 1) * s - 2 * padding + k + extra > 0 for n, s, k in zip(size, stride, kernel, strict=True)))
    torch.manual_seed(0)
    weight, bias = torch.randn(3, 5, *kernel), torch.randn(5)
    assert_same(
        lambda x: F.conv_transpose2d(x, weight, bias, stride, padding, extra), image(1, 3, *size), tolerance=5e-6
    )


def test_linear():
    weight, bias = torch.randn(4, 54), torch.randn(4)
    assert_same(lambda x: F.linear(x.flatten(1), weight, bias).relu(), image(1, 6, 3, 3), tolerance=5e-6)
    assert_same(lambda x: F.linear(x, torch.ones(4, 9)), image(), tolerance=5e-6)
    assert_same(lambda x: torch.addmm(torch.ones(3, 4), x, torch.ones(5, 4), alpha=0.5), image(3, 5), tolerance=5e-6)
    assert_same(lambda x, y: x @ y, image(3, 5), image(5, 2), tolerance=5e-6)


pooling = (
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(sizes, sizes),
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    st.booleans(),
)


def _poolable(size, kernel, padding):
    assume(all(2 * p <= k <= n + 2 * p for n, k, p in zip(size, kernel, padding, strict=True)))


@settings(deadline=None, max_examples=60)
@given(*pooling, st.booleans(), st.sampled_from([None, 3]))
def test_average_pool(size, kernel, stride, padding, ceil, include, divisor):
    _poolable(size, kernel, padding)
    torch.manual_seed(0)
    assert_same(
        lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil, include, divisor), image(1, 3, *size), tolerance=3e-6
    )


@settings(deadline=None, max_examples=40)
@given(*pooling)
def test_max_pool(size, kernel, stride, padding, ceil):
    _poolable(size, kernel, padding)
    torch.manual_seed(0)
    assert_same(lambda x: F.max_pool2d(x, kernel, stride, padding, 1, ceil), image(1, 3, *size) - 3, tolerance=0)


@settings(deadline=None, max_examples=25)
@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.tuples(st.integers(1, 6), st.integers(1, 6)))
def test_adaptive_pool(size, bins):
    torch.manual_seed(0)
    assert_same(lambda x: F.adaptive_avg_pool2d(x, bins), image(1, 3, *size), tolerance=3e-6)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.adaptive_avg_pool2d(x, (2, 3)),
        lambda x: F.avg_pool2d(x, 40),
        lambda x: F.avg_pool2d(x, (50, 30), 25, (10, 3), True, False),
        lambda x: F.avg_pool2d(x, 70, 60, 0, True),
    ],
)
def test_means_of_large_windows_keep_their_precision(pool):
    x = torch.rand(1, 2, 160, 240) + 3
    _, (small,), _ = both(pool, x)
    assert float((small - pool(x.double())).abs().max()) < 2e-6


def test_mean_of_a_large_map_keeps_its_precision():
    x = torch.rand(1, 2, 288, 512) + 3
    _, (small,), _ = both(lambda x: x.mean((2, 3)), x)
    assert float((small - x.double().mean((2, 3))).abs().max()) < 2e-6


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["bilinear", "nearest", "nearest-exact"]),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from([2, 3, 4, 0.5, 0.25, 1 / 3, 0.4, 1.7, (2, 0.5), (0.37, 3)]),
)
def test_interpolation_by_factor(mode, size, factor):
    factors = factor if isinstance(factor, tuple) else (factor, factor)
    assume(all(int(n * f) >= 1 for n, f in zip(size, factors, strict=True)))
    torch.manual_seed(0)
    assert_same(lambda x: F.interpolate(x, scale_factor=factors, mode=mode), image(1, 3, *size), tolerance=5e-6)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["bilinear", "nearest", "nearest-exact"]),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 25), st.integers(1, 25)),
    st.booleans(),
)
def test_interpolation_by_size(mode, size, out, align):
    torch.manual_seed(0)
    options = {"align_corners": align} if mode == "bilinear" else {}
    assert_same(lambda x: F.interpolate(x, size=out, mode=mode, **options), image(1, 3, *size), tolerance=5e-6)


def test_downsampling_large_odd_images_by_a_factor():
    assert_same(lambda x: F.interpolate(x, scale_factor=0.25, mode="bilinear"), image(1, 3, 1081, 67), tolerance=5e-6)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (torch.digamma, "no exact counterpart"),
        (lambda x: F.relu(x.clone(), inplace=True), "in place"),
        (lambda x: x.bfloat16(), "bfloat16"),
        (lambda x: F.prelu(x, x[0, :, 0, 0]), "constant slope"),
    ],
)
def test_what_cannot_be_exact_is_refused(function, reason):
    with pytest.raises(ExportError, match=reason) as caught:
        export(function, [image()])
    assert "node '" in str(caught.value) and "\n" not in str(caught.value)
