"""Indexing, joining, padding and moving values at any rank, each through the interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lce_support import assert_verified, export
from torch.nn import functional as F

from binmat.errors import ExportError

IMAGE = (1, 6, 5, 7)

INDEXING = {
    "list": lambda x: (x[:, [2, 0, 5]], x[..., [1, 1]], x[:, :, [4, -1]]),
    "list of negatives": lambda x: x[:, [-1, -6]],
    "two lists": lambda x: x[:, [0, 1, 2], [1, 1, 3]],
    "lists apart": lambda x: x[:, [0, 1, 2], :, [1, 1, 3]],
    "list of rows and columns": lambda x: x[..., [[0], [3]], [1, 2, 6]],
    "tensor of two dimensions": lambda x: x[:, torch.tensor([[0, 1], [2, 3]])],
    "boolean list": lambda x: x[:, torch.tensor([True, False, True, True, False, False])],
    "None and ellipsis": lambda x: (x[None, ..., 0], x[:, None], x[0, ..., None]),
    "steps": lambda x: (x[:, 1::2], x[..., ::3], x[:, :, 1:4:2, ::2]),
    "whole by number": lambda x: (x[0], x[0, 1], x[:, -1, :, 2], x[0, 1, 2, 3]),
    "index select": lambda x: (
        x.index_select(-1, torch.tensor([3, 3, 0])),
        torch.index_select(x, 2, torch.tensor([1])),
    ),
    "gather by constants": lambda x: x.gather(1, torch.zeros(1, 2, 5, 7, dtype=torch.int64) + 3),
    "gather of the largest": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "gather along rows": lambda x: x.gather(2, x.argsort(2)[:, :, :2, :6]),
    "gather along columns": lambda x: x.gather(-1, x.topk(3, -1).indices),
    "take along a dimension": lambda x: torch.take_along_dim(x, x.argmax(3, keepdim=True), 3),
    "take": lambda x: torch.take(x, torch.tensor([[3, 5], [9, 60]])),
    "computed index select": lambda x: x.index_select(1, x.mean((0, 2, 3)).argsort()),
    "computed index": lambda x: x[:, x.mean((0, 2, 3)).argsort()[:3]],
    "two computed indices": lambda x: x[0, x[0, :, 0, 0].argsort(), x[0, :, 0, 0].argsort() % 5],
    "computed negative index": lambda x: x[:, x.mean((0, 2, 3)).argsort()[:3] - 6],
    "embedding": lambda x: F.embedding(x[0].argmax(0), torch.arange(12.0).reshape(6, 2)),
    "embedding of a scalar": lambda x: F.embedding(x.flatten()[:6].argmax(), torch.arange(12.0).reshape(6, 2)),
    "narrow": lambda x: x.narrow(1, 2, 3),
    "diagonal": lambda x: (x.diagonal(dim1=2, dim2=3), x.diagonal(1, 1, 3), x[0, 0].diagonal(-1), x[0, 0].diag()),
    "trace": lambda x: x[0, 0].trace(),
    "diag embed": lambda x: torch.diag_embed(x[0]),
    "tril": lambda x: (x.tril(), x.triu(1)),
    "masked fill": lambda x: x.masked_fill(torch.ones(5, 7).triu(1).bool(), float("-inf")).softmax(-1),
    "unfold a dimension": lambda x: (x.unfold(3, 3, 2), x.unfold(1, 2, 2)),
    "windows": lambda x: x[:, :, :4, :6].unfold(2, 2, 2).unfold(3, 3, 3),
    "as strided": lambda x: torch.as_strided(x, (3, 5), (7, 2), 4),
    "write a slice": lambda x: write(x, (slice(None), slice(1, 3)), 0.5),
    "write every second": lambda x: write(x, (..., slice(0, None, 2)), 0.5),
    "write a tensor to steps": lambda x: write(x, (..., slice(1, None, 3)), x[..., :2] * 2),
    "write one channel": lambda x: write(x, (slice(None), 2), x[:, 0]),
    "write a patch": lambda x: write(x, (slice(None), slice(1, 4), 2, slice(1, 5)), 3.0),
    "write by a mask": lambda x: write(x, x > 0, 3.0),
    "write by a list": lambda x: write(x, (slice(None), [1, 4]), 3.0),
    "select scatter": lambda x: x.select_scatter(x[:, 0], 1, 3),
    "index fill": lambda x: x.index_fill(1, torch.tensor([0, 3]), 2.0),
    "index copy": lambda x: x.index_copy(1, torch.tensor([0, 3]), x[:, 1:3]),
}


def write(x, index, value):
    x = x.clone()
    x[index] = value
    return x


@pytest.mark.parametrize("name", INDEXING)
def test_indexing(name):
    assert_verified(INDEXING[name], torch.randn(IMAGE))


MOVING = {
    "squeeze": lambda x: (x.squeeze(), x.squeeze(-1), x.squeeze((0, -1))),
    "unsqueeze": lambda x: (x.unsqueeze(0), x.unsqueeze(-1), x.unsqueeze(2)),
    "reshape": lambda x: (x.reshape(-1), x.reshape(-1, x.shape[-1]), x.flatten(1).unflatten(1, (-1, 1))),
    "reverse dimensions": lambda x: x.permute(*range(x.dim() - 1, -1, -1)) * 2,
    "rotate dimensions": lambda x: x.permute(*range(1, x.dim()), 0) + 1,
    "move and swap": lambda x: (x.movedim(0, -1) * 2, x.swapaxes(0, 1) + 1, x.mT * 2),
    "expand": lambda x: x.unsqueeze(0).expand(3, *x.shape),
    "repeat": lambda x: x.repeat(2, *[1] * (x.dim() - 2), 3),
    "tile": lambda x: x.tile(2),
    "repeat interleave": lambda x: (x.repeat_interleave(2, 1), x.repeat_interleave(3, -1)),
    "repeat interleave by counts": lambda x: x.repeat_interleave(torch.tensor([1, 3]), 1),
    "flip": lambda x: (x.flip(0), x.flip(-1, 0), x.fliplr()),
    "roll": lambda x: (x.roll(1, 1), x.roll((1, -1), (-1, 0)), x.roll(3)),
    "rotate": lambda x: x.rot90(1, (0, x.dim() - 1)),
    "stack": lambda x: (torch.stack([x, x * 2]), torch.stack([x, x * 2], -1), torch.stack([x, x * 2], 1)),
    "cat": lambda x: (torch.cat([x, x * 2], -1), torch.cat([x, x * 2, x])),
    "cat of types": lambda x: torch.cat([x, (x > 0).long()], -1),
    "split": lambda x: (*x.split(1, 1), *x.chunk(3, -1), *x.tensor_split(2, 1), *x.unbind(1)),
    "slice with steps": lambda x: (x[..., ::2], x[:, 1:], x[:, ::2] * 2, x[..., :-1]),
    "pad": lambda x: (F.pad(x, (1, 2)), F.pad(x, (0, 1, 2, 0), value=-1.5)),
    "pad every dimension": lambda x: F.pad(x, (1, 0) * x.dim(), value=2.0),
    "negative padding": lambda x: F.pad(x, (-1, 1)),
    "meshgrid": lambda x: [g + x.mean() for g in torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")],
    "broadcast tensors": lambda x: torch.broadcast_tensors(x, x[..., :1] * 2),
    "coordinates": lambda x: x + torch.linspace(-1, 1, x.shape[-1]),
    "booleans": lambda x: (
        (x > 0).flip(0),
        (x > 0)[..., :1].expand(x.shape),
        torch.stack([x > 0, x < 1], 1).transpose(0, 1).clone(),
    ),
    "integers": lambda x: (
        (9 * x).int().roll(1, 0),
        F.pad((9 * x).long(), (1, 1), value=3),
        (9 * x).long().transpose(0, 1).repeat_interleave(2, -1),
    ),
    "empty parts": lambda x: torch.cat([x[..., :0], x], -1),
}


@pytest.mark.parametrize("shape", [(3, 2), (4, 2, 3), (1, 2, 4, 3), (2, 2, 3, 4, 3), (1, 2, 3, 1, 2, 3)])
@pytest.mark.parametrize("name", MOVING)
def test_movement_at_any_rank(name, shape):
    assert_verified(MOVING[name], torch.randn(shape))


@settings(max_examples=15)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.data())
def test_views_of_permuted_tensors(shape, data):
    dims = data.draw(st.permutations(range(len(shape))))
    cut = data.draw(st.integers(0, len(shape) - 1))
    torch.manual_seed(0)

    def function(x):
        x = x.permute(dims)
        merged = x.reshape(*x.shape[:cut], -1)
        return merged * 2, merged.unsqueeze(cut).flip(cut), x.reshape(-1)[::2], x.unsqueeze(0)[:, -1:]

    assert_verified(function, torch.randn(shape))


@settings(max_examples=15)
@given(
    st.sampled_from(["constant", "reflect", "replicate", "circular"]),
    st.lists(st.integers(3, 6), min_size=1, max_size=3),
    st.data(),
)
def test_padding(mode, size, data):
    amounts = data.draw(st.lists(st.integers(0, 2), min_size=2 * len(size), max_size=2 * len(size)))
    torch.manual_seed(0)
    assert_verified(lambda x: F.pad(x, amounts, mode=mode), torch.randn(1, 2, *size))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_of_unbatched_images(mode):
    assert_verified(lambda x: F.pad(x, (1, 2, 0, 1), mode=mode), torch.randn(2, 4, 5))


SHUFFLES = {
    "shuffle": lambda x: F.pixel_shuffle(x, 2),
    "unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channels": lambda x: F.channel_shuffle(x.unsqueeze(0) if x.dim() == 3 else x, 4),
}


@pytest.mark.parametrize("shape", [(1, 8, 4, 6), (8, 4, 6), (2, 8, 2, 2), (1, 2, 8, 4, 2)])
@pytest.mark.parametrize("name", SHUFFLES)
def test_shuffles(name, shape):
    if name == "channels" and len(shape) == 5:
        pytest.skip("8 channels stand elsewhere")
    assert_verified(SHUFFLES[name], torch.randn(shape))


@settings(max_examples=15)
@given(st.integers(4, 8), st.integers(4, 8), st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.integers(1, 2))
def test_unfold(height, width, kernel, stride, padding, dilation):
    assume(min(height, width) + 2 * padding >= (kernel - 1) * dilation + 1)
    torch.manual_seed(0)
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    assert_verified(lambda x: F.unfold(x, (kernel, 2), **options), torch.randn(1, 2, height, width))


PERMUTED = {
    "adaptive mean of tokens": lambda x: F.adaptive_avg_pool1d(x.flatten(2).transpose(1, 2), 3),
    "adaptive mean of permuted": lambda x: F.adaptive_avg_pool2d(x.permute(0, 2, 3, 1), (2, 3)),
    "adaptive mean to one": lambda x: F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), 1),
    "adaptive max of permuted": lambda x: F.adaptive_max_pool2d(x.permute(0, 2, 3, 1), (2, 3)),
    "max pool of permuted": lambda x: F.max_pool2d(x.permute(0, 3, 2, 1), 2),
    "mean of tokens": lambda x: x.flatten(2).transpose(1, 2).mean(1),
    "tokens to windows": lambda x: (
        x[..., :4, :6].reshape(1, 6, 2, 2, 3, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 6) * 2
    ),
    "windows and back": lambda x: (
        x[..., :4, :6]
        .reshape(6, 2, 2, 3, 2)
        .permute(1, 3, 2, 4, 0)
        .reshape(-1, 4, 6)
        .softmax(-1)
        .reshape(2, 3, 2, 2, 6)
        .permute(4, 0, 2, 1, 3)
        .reshape(1, 6, 4, 6)
    ),
    "heads": lambda x: heads(x.flatten(2).transpose(1, 2), 3),
    "linear of images": lambda x: F.linear(x.permute(0, 2, 3, 1), torch.ones(4, 6) / 3).permute(0, 3, 1, 2),
    "seven dimensions": lambda x: (
        x[..., :4, :6].reshape(1, 2, 3, 2, 2, 3, 2).permute(0, 3, 5, 1, 4, 6, 2).reshape(1, -1, 6) * 2
    ),
}


def heads(tokens, count):
    batch, length, channels = tokens.shape
    q = tokens.reshape(batch, length, count, channels // count).transpose(1, 2)
    weights = (q @ q.transpose(-2, -1) * 0.3).softmax(-1)
    return (weights @ q).transpose(1, 2).reshape(batch, length, channels)


@pytest.mark.parametrize("name", PERMUTED)
def test_permuted_and_token_tensors(name):
    assert_verified(PERMUTED[name], torch.randn(IMAGE))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.ops.aten.index.Tensor(x, [x > 0]), "depends on the picture"),
        (lambda x: x.index_add(1, torch.tensor([0, 3]), x[:, 1:3]), "scattered places"),
        (lambda x: x.index_copy(1, x.mean((0, 2, 3)).argsort()[:1], x[:, :1]), "places that the network computes"),
        (lambda x: x.permute(0, 2, 3, 1, 4).as_strided((2, 2), (1, 1)), "permuted"),
    ],
)
def test_what_depends_on_the_picture_is_refused(function, reason):
    with pytest.raises(ExportError, match=reason):
        export(function, [torch.randn(IMAGE) if reason != "permuted" else torch.randn(1, 2, 3, 2, 2)])


def test_random_numbers_are_refused():
    with pytest.raises(ExportError, match="random"):
        export(lambda x: x + torch.rand_like(x), [torch.randn(IMAGE)])
