"""The GRU with sparse-assisted gates: formula, limits of the mask, streaming, sparse execution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from binmat.nn.conv_gru import ConvGRU
from binmat.nn.masked_path import set_execution
from binmat.nn.sparse_gru import SparseConvGRU


def build(channels: int = 3) -> SparseConvGRU:
    gru = SparseConvGRU.from_dense(ConvGRU(channels).double())
    with torch.no_grad():
        for parameter in gru.parameters():
            parameter.add_(0.2 * torch.rand_like(parameter))
    return gru.eval()


def formula(gru: SparseConvGRU, x: Tensor, h: Tensor, m: Tensor) -> Tensor:
    def masked(name: str, seen: Tensor) -> Tensor:
        conv, shift, gate = getattr(gru, name)
        point, point_shift, _ = getattr(gru, f"{name}_1x1")
        return m * gate(conv(seen) + shift.bias.view(-1, 1, 1)) + gate(point(seen) + point_shift.bias.view(-1, 1, 1))

    r, z = masked("ih", torch.cat([x, h], 1)).split(h.shape[1], 1)
    c = masked("hh", torch.cat([x, r * h], 1))
    return (1 - z) * h + z * c


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def random(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def test_a_step_is_its_formula() -> None:
    gru = build()
    x, h, m = random(2, 3, 5, 4) - 0.5, random(2, 3, 5, 4) - 0.5, random(2, 1, 5, 4)
    out, state = gru(x, h, m)
    torch.testing.assert_close(out, formula(gru, x, h, m))
    assert torch.equal(out, state)


def test_it_starts_from_the_dense_grus_own_convolutions() -> None:
    dense = ConvGRU(3)
    gru = SparseConvGRU.from_dense(dense)
    assert gru.ih[0] is dense.ih[0]
    assert gru.hh[0] is dense.hh[0]
    # Where the 1x1 paths are silent and the mask is 1 it is the dense one: sigmoid of minus infinity, tanh of 0.
    for name, bias in (("ih_1x1", -1e4), ("hh_1x1", 0.0)):
        point = getattr(gru, name)[0]
        point.weight.zero_()
        point.bias.fill_(bias)
    x, h = torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6)
    torch.testing.assert_close(gru(x, h, torch.ones(1, 1, 6, 6))[0], dense(x, h)[0])


def test_frame_by_frame_equals_the_clip_each_frame_with_its_own_mask() -> None:
    gru = build()
    x, h, m = random(2 * 3, 3, 5, 4), random(2, 3, 5, 4), (random(2 * 3, 1, 5, 4) < 0.5).double()
    out, last = gru(x, h, m)
    for clip in range(2):
        state = h[clip : clip + 1]
        for t in range(3):
            row = slice(clip * 3 + t, clip * 3 + t + 1)
            frame, state = gru(x[row], state, m[row])
            torch.testing.assert_close(frame, out[row])
        torch.testing.assert_close(state, last[clip : clip + 1])


@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_skipping_equals_computing_everything(share: float) -> None:
    gru = build()
    x, h, m = random(2, 3, 8, 9), random(2, 3, 8, 9), (random(2, 1, 8, 9) < share).double()
    set_execution(gru, "dense")
    dense, _ = gru(x, h, m)
    set_execution(gru, "sparse")
    torch.testing.assert_close(gru(x, h, m)[0], dense, rtol=0, atol=1e-12)
