from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from binmat.errors import SizeError
from binmat.nn.recurrence import Recurrent
from binmat.transforms.trace import graphs, trace


class Decay(Recurrent):
    """h' = h / 2 + x + context, output 3 h'."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def step(self, x: Tensor, h: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(x.shape[0])
        h = h / 2 + x + sum(context)
        return 3 * h, h


@given(batch=st.integers(1, 3), length=st.integers(1, 4), with_context=st.booleans())
def test_each_clip_is_run_on_its_own_frames_in_order(batch, length, with_context):
    layer = Decay()
    x, h = torch.randn(batch * length, 2, 3, dtype=torch.float64), torch.randn(batch, 2, 3, dtype=torch.float64)
    context = (torch.randn_like(x),) if with_context else ()
    out, last = layer(x, h, *context)
    assert layer.calls == [batch] * length
    for b in range(batch):
        state = h[b]
        for t in range(length):
            row = b * length + t
            state = state / 2 + x[row] + sum(c[row] for c in context)
            torch.testing.assert_close(out[row], 3 * state, rtol=0, atol=1e-12)
        torch.testing.assert_close(last[b], state, rtol=0, atol=1e-12)


def test_streaming_equals_the_clip_bit_for_bit():
    layer = Decay()
    x, h = torch.randn(5, 4), torch.randn(1, 4)
    whole, last = layer(x, h)
    for t in range(5):
        out, h = layer(x[t : t + 1], h)
        assert torch.equal(out, whole[t : t + 1])
    assert torch.equal(h, last)


def test_one_frame_is_one_step_on_the_tensors_as_they_are():
    class Echo(Recurrent):
        def step(self, x: Tensor, h: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
            return x, h

    x, h = torch.randn(2, 3), torch.randn(2, 3)
    out, last = Echo()(x, h)
    assert out is x
    assert last is h


@pytest.mark.parametrize(("rows", "batch"), [(3, 2), (0, 1), (2, 0), (1, 2)])
def test_rows_that_the_clips_cannot_share_are_refused(rows, batch):
    with pytest.raises(SizeError, match=f"{rows} frames cannot be split among the states of {batch} clips"):
        Decay()(torch.zeros(rows, 1), torch.zeros(batch, 1))


def test_it_is_a_leaf_whose_step_alone_is_traced():
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = Decay()

        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            out: tuple[Tensor, Tensor] = self.memory(x, h)
            return out

    graph = graphs(trace(Holder()))["forward"]
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["memory"]
    assert not [node for node in graph.nodes if node.op == "call_method"]


def test_a_subclass_without_a_step_says_so():
    with pytest.raises(NotImplementedError, match="Recurrent must define its step"):
        Recurrent()(torch.zeros(1, 1), torch.zeros(1, 1))
