"""Reductions, searches and normalisations over any dimension, each through the interpreter."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lce_support import assert_verified
from torch import nn
from torch.nn import functional as F

SHAPES = [(1, 3, 5, 9), (4, 7), (2, 3, 5), (2, 2, 3, 1, 5), (6,)]

ALONG = {
    "max": lambda x, d: tuple(x.max(d)),
    "max keepdim": lambda x, d: tuple(x.max(d, keepdim=True)),
    "min": lambda x, d: tuple(x.min(d)),
    "amax": lambda x, d: (x.amax(d), x.amin(d, keepdim=True)),
    "aminmax": lambda x, d: tuple(x.aminmax(dim=d)),
    "argmax": lambda x, d: (x.argmax(d), x.argmax(d, keepdim=True)),
    "argmin": lambda x, d: (x.argmin(d), x.argmin(d, keepdim=True)),
    "any": lambda x, d: ((x > 0.5).any(d), (x > 0.5).any(d, keepdim=True)),
    "all": lambda x, d: ((x > -1).all(d), (x > -1).all(d, keepdim=True)),
    "any of floats": lambda x, d: x.relu().any(d),
    "prod": lambda x, d: (x.prod(d), x.prod(d, keepdim=True)),
    "sum": lambda x, d: (x.sum(d), x.sum(d, keepdim=True)),
    "sum of booleans": lambda x, d: (x > 0).sum(d),
    "count nonzero": lambda x, d: x.relu().count_nonzero(d),
    "mean": lambda x, d: x.mean(d, keepdim=True),
    "cumsum": lambda x, d: x.cumsum(d),
    "cumsum of booleans": lambda x, d: (x > 0).cumsum(d),
    "log sum exp": lambda x, d: (x.logsumexp(d), x.logsumexp(d, keepdim=True)),
    "softmax": lambda x, d: x.softmax(d),
    "softmin": lambda x, d: F.softmin(x, d),
    "log softmax": lambda x, d: x.log_softmax(d),
    "norm": lambda x, d: (x.norm(dim=d), torch.linalg.vector_norm(x, dim=d, keepdim=True)),
    "norm 1": lambda x, d: torch.linalg.vector_norm(x, 1, d),
    "norm inf": lambda x, d: torch.linalg.vector_norm(x, float("inf"), d),
    "norm -inf": lambda x, d: torch.linalg.vector_norm(x, float("-inf"), d),
    "norm 0": lambda x, d: torch.linalg.vector_norm(x.relu(), 0, d),
    "norm 3": lambda x, d: torch.linalg.vector_norm(x, 3, d),
    "normalize": lambda x, d: F.normalize(x, dim=d),
    "cosine similarity": lambda x, d: F.cosine_similarity(x, x.flip(0) + 0.3, d),
    "variance": lambda x, d: (x.var(d, correction=0), torch.std_mean(x, d, correction=0)),
    "topk": lambda x, d: tuple(x.topk(max(1, x.shape[d] // 2), d)),
    "topk smallest": lambda x, d: tuple(x.topk(1, d, largest=False)),
    "sort": lambda x, d: tuple(x.sort(d)),
    "sort descending": lambda x, d: tuple(x.sort(d, descending=True)),
    "argsort": lambda x, d: x.argsort(d),
    "median": lambda x, d: tuple(x.median(d)),
    "kth value": lambda x, d: tuple(x.kthvalue(1, d)),
    "glu": lambda x, d: F.glu(torch.cat([x, x + 1], d), d),
}


@pytest.mark.parametrize("name", ALONG)
def test_along_every_dimension(name):
    for shape in SHAPES:
        x = torch.randn(shape)
        for dim in {0, -1, len(shape) // 2, -len(shape)}:
            assert_verified(partial(ALONG[name], d=dim), x)


WHOLE = {
    "max": lambda x: (x.max(), x.min()),
    "argmax": lambda x: (x.argmax(), x.argmin()),
    "any": lambda x: ((x > 2).any(), (x > -9).all()),
    "prod": lambda x: x.prod(),
    "norm": lambda x: x.norm(),
    "norm keepdim": lambda x: torch.linalg.vector_norm(x, keepdim=True),
    "sum": lambda x: (x.sum(), (x > 0).sum()),
    "log sum exp": lambda x: x.flatten().logsumexp(0),
    "median": lambda x: x.median(),
    "several": lambda x: (x.amax((0, -1)), x.sum((0, -1), keepdim=True), x.logsumexp((0, -1)), x.norm(dim=(0, -1))),
    "several any": lambda x: ((x > 1).any((0, -1)), (x > -2).all((0, -1))),
    "statistics": lambda x: (x.std(), x.var(), *torch.var_mean(x)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_over_all_elements(name):
    for shape in SHAPES[:4]:
        assert_verified(WHOLE[name], torch.randn(shape))


INTEGERS = {
    "max": lambda x: tuple(x.max(1)),
    "amax": lambda x: (x.amax(1), x.amin(-1)),
    "sum": lambda x: (x.sum(1), x.sum()),
    "prod": lambda x: x.prod(1),
    "cumsum": lambda x: x.cumsum(1),
    "any": lambda x: x.any(1),
    "topk": lambda x: x.topk(2, 1).values,
    "mean": lambda x: x.float().mean(1),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_of_integers(name):
    assert_verified(INTEGERS[name], torch.randint(-9, 10, (1, 4, 3, 5), dtype=torch.int32))


@settings(max_examples=15)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_reductions_of_permuted_tensors(shape, data):
    dims = data.draw(st.permutations(range(len(shape))))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    torch.manual_seed(0)

    def function(x):
        x = x.permute(dims)
        return x.amax(dim), x.argmax(dim), x.cumsum(dim), x.softmax(dim), x.prod(dim, keepdim=True), x.sort(dim).values

    assert_verified(function, torch.randn(shape))


NORMS = {
    "batch norm of vectors": (nn.BatchNorm1d(6), (1, 6)),
    "batch norm of several vectors": (nn.BatchNorm1d(6), (5, 6)),
    "batch norm of sequences": (nn.BatchNorm1d(6), (2, 6, 5)),
    "batch norm of volumes": (nn.BatchNorm3d(6), (1, 6, 2, 3, 4)),
    "batch norm without parameters": (nn.BatchNorm2d(6, affine=False), (1, 6, 3, 4)),
    "batch norm without statistics": (nn.BatchNorm2d(6, track_running_stats=False), (1, 6, 3, 4)),
    "instance norm of sequences": (nn.InstanceNorm1d(6, affine=True), (2, 6, 5)),
    "instance norm of images": (nn.InstanceNorm2d(6), (1, 6, 5, 4)),
    "instance norm of volumes": (nn.InstanceNorm3d(6), (1, 6, 2, 3, 4)),
    "instance norm of batches": (nn.InstanceNorm2d(6, affine=True), (2, 6, 5, 4)),
    "layer norm": (nn.LayerNorm(7), (1, 5, 7)),
    "layer norm of a vector": (nn.LayerNorm(7), (7,)),
    "layer norm over two dimensions": (nn.LayerNorm((5, 7)), (2, 5, 7)),
    "layer norm of images": (nn.LayerNorm((3, 4)), (1, 6, 3, 4)),
    "layer norm without parameters": (nn.LayerNorm(7, elementwise_affine=False), (1, 2, 3, 2, 7)),
    "group norm": (nn.GroupNorm(3, 6), (1, 6, 3, 4)),
    "group norm of vectors": (nn.GroupNorm(3, 6), (2, 6)),
    "group norm of sequences": (nn.GroupNorm(2, 6), (2, 6, 5)),
    "group norm of volumes": (nn.GroupNorm(1, 6), (1, 6, 2, 3, 4)),
    "group norm of batches": (nn.GroupNorm(3, 6), (2, 6, 3, 4)),
    "local response norm": (nn.LocalResponseNorm(3), (1, 6, 3, 4)),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalisation(name):
    layer, shape = NORMS[name]
    layer = layer.eval()
    with torch.no_grad():
        for tensor in [*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())]:
            tensor.uniform_(0.5, 1.5)
    assert_verified(lambda x: layer(x), torch.randn(shape))
