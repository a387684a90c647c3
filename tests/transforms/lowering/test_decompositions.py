"""Each operator that lowering takes apart: exact in float64, and gone from the graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binmat.model_defs.network import Example
from binmat.transforms.lowering.lower import lower
from binmat.transforms.trace import trace

aten = torch.ops.aten


class Applied(nn.Module):
    """A function of one tensor as a module that fx does not look into."""

    is_leaf = True

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class States(nn.Module):
    """What a recurrent layer gives for every step."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


def lowered(function, x, dtype=torch.float64):
    module = function if isinstance(function, nn.Module) else Applied(function)
    example = Example("forward", {"input": x}, ("y",))
    return lower(trace(nn.Sequential(module), example=example).eval(), example, dtype)


def operators(graph):
    return {node.target for node in graph.module.graph.nodes if node.op == "call_function"}


def heads(x):
    return x.flatten(2).transpose(1, 2).unflatten(-1, (2, 4)).transpose(1, 2)


MASK = torch.ones(30, 30, dtype=torch.bool).tril(-1)
GRID = torch.rand(2, 4, 7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 - 1.5
PLACES = torch.tensor([[0, -1], [2, 1]])

#: Name -> (an operator that must be gone, the function on x [2, 8, 5, 6]).
CASES = {
    "attention": (
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        lambda x: F.scaled_dot_product_attention(*[heads(x)] * 3),
    ),
    "causal attention": (
        aten._safe_softmax.default,
        lambda x: F.scaled_dot_product_attention(*[heads(x)] * 3, is_causal=True),
    ),
    "attention of masked rows": (
        aten._safe_softmax.default,
        lambda x: F.scaled_dot_product_attention(*[heads(x)] * 3, attn_mask=MASK),
    ),
    "attention of fewer dimensions": (
        aten._safe_softmax.default,
        lambda x: F.scaled_dot_product_attention(x[0], x[0], x[0], scale=0.3),
    ),
    "grouped attention": (
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        lambda x: F.scaled_dot_product_attention(heads(x), heads(x)[:, :1], heads(x)[:, :1], enable_gqa=True),
    ),
    "log softmax": (aten._log_softmax.default, lambda x: x.log_softmax(1)),
    "log sigmoid": (aten.log_sigmoid_forward.default, F.logsigmoid),
    "log sum exp": (aten.logsumexp.default, lambda x: x.logsumexp((1, 2))),
    "log add exp": (aten.logaddexp.default, lambda x: torch.logaddexp(x, x.flip(1))),
    "baddbmm": (aten.baddbmm.default, lambda x: torch.baddbmm(x[0], x[0], x[0].mT @ x[0], beta=0.5, alpha=0.3)),
    "vector norm": (aten.linalg_vector_norm.default, lambda x: torch.linalg.vector_norm(x, 3, 1)),
    "normalize": (aten.linalg_vector_norm.default, lambda x: F.normalize(x, dim=1)),
    "distances": (aten._cdist_forward.default, lambda x: torch.cdist(x[0], x[1])),
    "bilinear form": (aten._trilinear.default, lambda x: F.bilinear(x, x, torch.ones(3, 6, 6, dtype=x.dtype))),
    "sort": (aten.sort.default, lambda x: x.sort(1)[0]),
    "argsort": (aten.sort.default, lambda x: x.argsort(2, descending=True)),
    "median": (aten.median.dim, lambda x: x.median(1)[0]),
    "unfold": (aten.im2col.default, lambda x: F.unfold(x, (3, 2), 2, 1, (1, 2))),
    "fold": (aten.col2im.default, lambda x: F.fold(F.unfold(x, (3, 2), 1, 1, 2), (5, 6), (3, 2), 1, 1, 2)),
    "windows": (aten.unfold.default, lambda x: x.unfold(2, 3, 2).unfold(3, 2, 1)),
    "few long windows": (aten.unfold.default, lambda x: x.unfold(1, 6, 2)),
    "diagonal": (aten.diagonal.default, lambda x: x.diagonal(1, -2, -1) + x.diagonal(-2, 1, 2)[..., :4].sum()),
    "index by a list": (aten.index.Tensor, lambda x: x[:, [0, 2, 1]]),
    "index by two tensors": (aten.index.Tensor, lambda x: x[:, :, PLACES, PLACES]),
    "index by tensors apart": (aten.index.Tensor, lambda x: x[:, PLACES, :, PLACES]),
    "index by computed places": (aten.index.Tensor, lambda x: x.flatten(2)[0][:, x[0, 0].argmax(1)]),
    "embedding": (
        aten.embedding.default,
        lambda x: F.embedding(x.argmax(1), torch.arange(16.0, dtype=x.dtype).view(8, 2)),
    ),
    "value by a mask": (
        aten.index_put.default,
        lambda x: x.clone().masked_fill_(x > 1, 2.0).index_put_((x < 0,), x.new_tensor(0.5)),
    ),
    "circular padding": (aten.copy.default, lambda x: F.pad(x, (1, 2, 3, 1), mode="circular")),
    "bicubic": (aten.upsample_bicubic2d.default, lambda x: F.interpolate(x, (7, 4), mode="bicubic")),
    "bicubic by a factor": (
        aten.upsample_bicubic2d.default,
        lambda x: F.interpolate(x, scale_factor=1.7, mode="bicubic"),
    ),
    "bicubic, corners": (
        aten.upsample_bicubic2d.default,
        lambda x: F.interpolate(x, (7, 4), mode="bicubic", align_corners=True),
    ),
    "antialiased": (
        aten._upsample_bilinear2d_aa.default,
        lambda x: F.interpolate(x, (3, 4), mode="bilinear", antialias=True),
    ),
    "linear": (aten.upsample_linear1d.default, lambda x: F.interpolate(x.flatten(2), scale_factor=2, mode="linear")),
    "trilinear": (aten.upsample_trilinear3d.default, lambda x: F.interpolate(x[None], (4, 7, 9), mode="trilinear")),
    "nearest of volumes": (aten.upsample_nearest3d.default, lambda x: F.interpolate(x[None], scale_factor=(2, 1.5, 3))),
    "bucketize": (aten.bucketize.Tensor, lambda x: torch.bucketize(x, torch.tensor([-0.5, 0.0, 1.0], dtype=x.dtype))),
    "threshold": (aten.threshold.default, lambda x: F.threshold(x, 0.1, 0.2)),
    "nan to num": (aten.nan_to_num.default, lambda x: torch.nan_to_num(torch.where(x > 0, x, float("nan")), 0.5)),
    "floor divide": (aten.floor_divide.default, lambda x: x // 0.3),
    "fmod": (aten.fmod.Scalar, lambda x: torch.fmod(x, 0.7)),
    "erf": (aten.erf.default, lambda x: torch.erf(torch.where(x > 0, x, 0)) + torch.erfc(x)),
    "atan": (aten.atan.default, lambda x: x.atan() + x.tanh().asin() + x.tanh().acos()),
    "hyperbolic": (
        aten.sinh.default,
        lambda x: x.sinh() + x.cosh() + x.asinh() + x.tanh().atanh() + (x * x + 1).acosh(),
    ),
    "logarithms": (
        aten.log2.default,
        lambda x: x.abs().log2() + x.abs().log10() + x.abs().log1p() + x.exp2() + x.expm1(),
    ),
    "truncation": (aten.trunc.default, lambda x: (3 * x).trunc() + (3 * x).frac()),
    "leaky by chance": (aten.rrelu_with_noise_functional.default, nn.RReLU()),
    "GRU": (aten.gru.input, States(nn.GRU(6, 3, batch_first=True))),
    "attention layer": (
        aten._native_multi_head_attention.default,
        nn.TransformerEncoderLayer(6, 2, 4, batch_first=True),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_lowers_exactly_without_the_operator(name):
    operator, function = CASES[name]
    torch.manual_seed(0)
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    wrapped = Applied(function)
    if isinstance(function, nn.Module):
        x, wrapped = x[0], function.double().eval()
    graph = lowered(wrapped, x)
    assert operator not in operators(graph)
    with torch.no_grad():
        expected = wrapped(x)
    assert graph(x)[0].dtype == expected.dtype
    torch.testing.assert_close(graph(x)[0], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [False, True])
def test_grid_sample_lowers_exactly(mode, padding, corners):
    def function(x):
        return F.grid_sample(x, GRID.to(x.dtype), mode, padding, corners)

    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    graph = lowered(function, x)
    assert aten.grid_sampler_2d.default not in operators(graph)
    torch.testing.assert_close(graph(x)[0], function(x), rtol=0, atol=1e-11)


def test_grid_sample_takes_all_images_at_once():
    def sizes(count):
        grid = torch.rand(count, 3, 4, 2) * 2 - 1
        graph = lowered(lambda x: F.grid_sample(x, grid.to(x.dtype), align_corners=True), torch.rand(count, 2, 5, 6))
        return len(graph.module.graph.nodes)

    assert sizes(40) == sizes(2)


def test_the_fused_lstm_is_unrolled():
    layer = States(nn.LSTM(6, 3, batch_first=True, bidirectional=True)).eval()
    x = torch.randn(1, 5, 6)
    graph = lowered(layer, x, torch.float32)
    assert not any("rnn" in str(target) or "lstm" in str(target) for target in operators(graph))
    with torch.no_grad():
        torch.testing.assert_close(graph(x)[0], layer(x), rtol=0, atol=1e-6)


def test_what_depends_on_shapes_alone_is_a_constant():
    graph = lowered(lambda x: x + torch.cat([torch.ones_like(x[:1]), x.new_zeros(1, 8, 5, 6)]), torch.randn(2, 8, 5, 6))
    assert operators(graph) == {aten.add.Tensor}


def test_unfilled_memory_is_the_same_every_time():
    x = torch.randn(1, 8, 5, 6, dtype=torch.float64)
    first, second = (lowered(lambda x: F.pad(x, (1, 2, 3, 1), mode="circular"), x) for _ in range(2))
    for a, b in zip(first.module.buffers(), second.module.buffers(), strict=True):
        assert torch.equal(a, b)
