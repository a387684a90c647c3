"""Counts of attention, recurrent layers and matrix products in every spelling, against arithmetic."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from report_support import Wrapped, counted, example
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.model_defs.network import Example
from binmat.reports import count, report


def both(function: Callable[..., Any], *shapes: tuple[int, ...], layer: nn.Module | None = None) -> tuple[int, int]:
    """FLOPs in ``textbook`` and ``bimatting`` of a function of a layer and tensors of these shapes."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer or nn.Identity()

        def forward(self, x: Tensor, y: Tensor | None = None, z: Tensor | None = None) -> Any:
            return function(self.layer, *(value for value in (x, y, z) if value is not None))

    call = Example("forward", dict(zip("xyz", map(torch.zeros, shapes), strict=False)), ())
    found = [count(Net(), convention, example=call) for convention in ("textbook", "bimatting")]
    assert not any(each.not_counted for each in found)
    return found[0].total.flops, found[1].total.flops


@pytest.mark.parametrize(
    ("function", "shapes", "macs"),
    [
        (lambda _, x, y: x @ y, [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (lambda _, x, y: operator.matmul(x, y), [(3, 4), (4, 5)], 3 * 4 * 5),
        (lambda _, x, y: torch.linalg.matmul(x, y), [(3, 4), (4, 5)], 3 * 4 * 5),
        (lambda _, x, y: torch.matmul(input=x, other=y), [(3, 4), (4, 5)], 3 * 4 * 5),
        (lambda _, x, y: torch.bmm(input=x, mat2=y), [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        # Batch dimensions that one factor lacks, or has as 1.
        (lambda _, x, y: x.matmul(y), [(3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        (lambda _, x, y: x.matmul(y), [(2, 3, 4), (4, 5)], 2 * 3 * 4 * 5),
        (lambda _, x, y: x @ y, [(2, 1, 3, 4), (1, 6, 4, 5)], 2 * 6 * 3 * 4 * 5),
        (lambda _, x, y: x @ y, [(2, 3, 4), (4,)], 2 * 3 * 4),
        (lambda _, x, y: x @ y, [(4,), (4, 5)], 4 * 5),
        (lambda _, x, y: x @ y, [(4,), (4,)], 4),
        (lambda _, x, y: torch.mv(x, y), [(3, 4), (4,)], 3 * 4),
        (lambda _, x, y: torch.dot(x, y), [(4,), (4,)], 4),
        (lambda _, x, y: torch.inner(x, y), [(3, 4), (5, 4)], 3 * 4 * 5),
        (lambda _, x, y: torch.outer(x, y), [(3,), (5,)], 3 * 5),
        (lambda _, x, y: torch.tensordot(x, y, dims=2), [(2, 3, 4), (3, 4, 5)], 2 * 3 * 4 * 5),
        (lambda _, x, y: torch.tensordot(x, y, ([2, 0], [1, 0])), [(2, 3, 4), (2, 4, 5)], 3 * 8 * 5),
        (lambda _, x, y: torch.einsum("bhnd, bhmd -> bhnm", x, y), [(1, 2, 3, 4), (1, 2, 5, 4)], 2 * 3 * 4 * 5),
        (lambda _, x, y: torch.einsum("ij,jk", [x, y]), [(3, 4), (4, 5)], 3 * 4 * 5),
        (lambda _, x, y: torch.einsum(x, [0, 1], y, [1, 2], [0, 2]), [(3, 4), (4, 5)], 3 * 4 * 5),
        (lambda _, x, y: torch.einsum("...nc,...mc->...nm", x, y), [(2, 3, 4), (1, 5, 4)], 2 * 3 * 4 * 5),
        (lambda _, x, y: torch.einsum("...i,ij->...j", x, y), [(2, 7, 3), (3, 5)], 2 * 7 * 3 * 5),
        (lambda _, x, y: torch.einsum("a,b->ab", x, y), [(3,), (5,)], 15),
        # From left to right: 3 x 4 times 4 x 5, then 3 x 5 times 5 x 2.
        (lambda _, x, y, z: torch.einsum("ab,bc,cd->ad", x, y, z), [(3, 4), (4, 5), (5, 2)], 3 * 4 * 5 + 3 * 5 * 2),
        # The index that comes back stays; the one that does not is summed over.
        (lambda _, x, y, z: torch.einsum("ab,bc,ac->a", x, y, z), [(3, 4), (4, 5), (3, 5)], 3 * 4 * 5 + 3 * 5),
        (lambda _, x: torch.einsum("abc->ca", x), [(2, 3, 4)], 0),
        (lambda _, x, y, z: F.scaled_dot_product_attention(x, y, z), [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 6)],
         2 * 3 * 5 * (4 + 6)),
        (lambda _, x, y: F.scaled_dot_product_attention(query=x, key=y, value=y, is_causal=True),
         [(2, 5, 4), (2, 5, 4)], 2 * 5 * 5 * 8),
    ],
)  # fmt: skip
def test_products_without_a_bias(function: Callable[..., Any], shapes: list[tuple[int, ...]], macs: int) -> None:
    assert both(function, *shapes) == (macs, macs)


@pytest.mark.parametrize(
    ("function", "shapes", "macs", "outputs"),
    [
        (lambda _, x, y, z: torch.addmm(x, y, z), [(5,), (3, 4), (4, 5)], 60, 15),
        (lambda _, x, y, z: torch.addmm(input=x, mat1=y, mat2=z), [(5,), (3, 4), (4, 5)], 60, 15),
        (lambda _, x, y, z: x.baddbmm(y, z), [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 120, 30),
        (lambda _, x, y, z: torch.baddbmm(x, batch1=y, batch2=z), [(2, 3, 5), (2, 3, 4), (2, 4, 5)], 120, 30),
        # The products of the batch are summed up.
        (lambda _, x, y, z: torch.addbmm(x, y, z), [(3, 5), (2, 3, 4), (2, 4, 5)], 120, 15),
        (lambda _, x, y, z: torch.addmv(x, y, z), [(3,), (3, 4), (4,)], 12, 3),
        (lambda _, x, y, z: torch.addr(x, y, z), [(3, 5), (3,), (5,)], 15, 15),
    ],
)
def test_what_a_product_is_added_to_is_a_bias(
    function: Callable[..., Any], shapes: list[tuple[int, ...]], macs: int, outputs: int
) -> None:
    assert both(function, *shapes) == (macs, macs + outputs)


def test_layers_called_as_functions_with_named_arguments() -> None:
    conv, linear, wide = nn.Conv2d(3, 5, 3), nn.Linear(4, 7), nn.Bilinear(6, 5, 4)
    assert both(lambda m, x: F.conv2d(input=x, weight=m.weight), (1, 3, 8, 8), layer=conv) == (5 * 36 * 27,) * 2
    expected = 5 * 36 * 27, 5 * 36 * 28
    assert both(lambda m, x: F.conv2d(input=x, weight=m.weight, bias=m.bias), (1, 3, 8, 8), layer=conv) == expected
    expected = 2 * 4 * 7, 2 * 5 * 7
    assert both(lambda m, x: F.linear(bias=m.bias, weight=m.weight, input=x), (2, 4), layer=linear) == expected
    # For each of 3 rows and 4 outputs: 6 x 5 with the weight, then 5 with the second factor.
    assert both(lambda m, x, y: m(x, y), (3, 6), (3, 5), layer=wide) == (12 * 35, 12 * 36)
    expected = 12 * 35, 12 * 36
    assert both(lambda m, x, y: F.bilinear(x, y, m.weight, bias=m.bias), (3, 6), (3, 5), layer=wide) == expected
    assert both(lambda m, x, y: F.bilinear(x, y, m.weight), (3, 6), (3, 5), layer=wide) == (12 * 35, 12 * 35)


def test_attention_layers() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    products, biases = 4 * 5 * 64 + 2 * 5 * 5 * 8, 4 * 5 * 8
    assert both(lambda m, x: m(x, x, x)[0], (1, 5, 8), layer=layer) == (products, products + biases)
    assert both(lambda m, x: m(x, x, x, need_weights=False)[0], (1, 5, 8), layer=layer) == (products, products + biases)
    # 3 queries of 8 features, 7 keys and values of 6; two images; the sequence comes first.
    layer = nn.MultiheadAttention(8, 4, kdim=6, vdim=6, bias=False)
    products = 2 * (2 * 3 * 64 + 2 * 7 * 6 * 8 + 2 * 3 * 7 * 8)
    assert both(lambda m, x, y: m(x, y, value=y)[0], (3, 2, 8), (7, 2, 6), layer=layer) == (products, products)
    # One more key and value that is learnt, and one of zeros.
    layer = nn.MultiheadAttention(8, 2, bias=False, add_bias_kv=True, add_zero_attn=True)
    products = 4 * 5 * 64 + 2 * 5 * 7 * 8
    assert both(lambda m, x: m(query=x, key=x, value=x)[0], (5, 1, 8), layer=layer) == (products, products)


def test_attention_called_as_a_function() -> None:
    def attend(m: nn.MultiheadAttention, x: Tensor) -> Tensor:
        return F.multi_head_attention_forward(
            x, x, x, 8, 2, m.in_proj_weight, m.in_proj_bias, None, None, False, 0.0, m.out_proj.weight, m.out_proj.bias,
            training=False,
        )[0]  # fmt: skip

    products = 4 * 5 * 64 + 2 * 5 * 5 * 8
    assert both(attend, (5, 1, 8), layer=nn.MultiheadAttention(8, 2)) == (products, products + 4 * 5 * 8)


def test_a_layer_inside_attention_says_where_it_is_counted() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    layers = {layer.name: layer for layer in report(Net(), example=example(1, 5, 8)).layers}
    assert layers["attention"].macs == 4 * 5 * 64 + 2 * 5 * 5 * 8
    assert layers["attention.out_proj"].macs == 0
    assert layers["attention.out_proj"].reason.endswith("counted with 'attention'")


@pytest.mark.parametrize(
    ("layer", "shape", "weights", "biases"),
    [
        (nn.RNN(6, 4), (5, 2, 6), 4 * 6 + 4 * 4, 8),
        (nn.GRU(6, 4), (5, 2, 6), 3 * (4 * 6 + 4 * 4), 24),
        (nn.LSTM(6, 4, bias=False), (5, 2, 6), 4 * (4 * 6 + 4 * 4), 0),
        (nn.GRU(6, 4, batch_first=True), (2, 5, 6), 3 * (4 * 6 + 4 * 4), 24),
        # The second layer reads both directions of the first.
        (nn.LSTM(6, 4, num_layers=2, bidirectional=True), (5, 2, 6), 2 * 16 * (6 + 4) + 2 * 16 * (8 + 4), 4 * 32),
        # The state has 2 features, made of the 4.
        (nn.LSTM(6, 4, proj_size=2, bias=False), (5, 2, 6), 16 * (6 + 2) + 2 * 4, 0),
        (nn.GRU(6, 4), (10, 6), 3 * (4 * 6 + 4 * 4), 24),
        (nn.RNNCell(6, 4), (10, 6), 4 * 6 + 4 * 4, 8),
        (nn.GRUCell(6, 4), (10, 6), 3 * (4 * 6 + 4 * 4), 24),
        (nn.LSTMCell(6, 4), (10, 6), 4 * (4 * 6 + 4 * 4), 32),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_recurrent_layers_use_each_weight_once_in_ten_steps(
    layer: nn.Module, shape: tuple[int, ...], weights: int, biases: int
) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        found = m(x)
        return found if isinstance(found, Tensor) else found[0]

    assert both(forward, shape, layer=layer) == (10 * weights, 10 * (weights + biases))


def test_recurrent_layers_of_ones_own_count_alike() -> None:
    """Subclasses are traced through, to the functions of PyTorch."""
    for kind, shape in ((nn.GRU, (5, 2, 6)), (nn.LSTM, (5, 2, 6)), (nn.GRUCell, (10, 6))):
        own = type("Own", (kind,), {})
        expected, found = (
            counted(Wrapped(lambda m, x: m.layer(x)[0], layer=made(6, 4)), *shape, convention="bimatting")
            for made in (kind, own)
        )
        assert found.total == expected.total and not found.not_counted
