from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from binmat.nn.conv_gru import ConvGRU


def test_a_step_is_the_papers_formula():
    gru = ConvGRU(3, kernel_size=1).double()
    x, h = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    out, state = gru(x, h)

    def pixel(conv: nn.Module, *parts: Tensor) -> Tensor:
        assert isinstance(conv, nn.Conv2d)
        return torch.einsum("oi,nihw->nohw", conv.weight[:, :, 0, 0], torch.cat(parts, 1)) + conv.bias[:, None, None]

    gates = torch.sigmoid(pixel(gru.ih[0], x, h))
    r, z = gates[:, :3], gates[:, 3:]
    candidate = torch.tanh(pixel(gru.hh[0], x, r * h))
    torch.testing.assert_close(state, (1 - z) * h + z * candidate, rtol=0, atol=1e-12)
    assert torch.equal(out, state)


def test_keys_are_the_official_ones_and_the_size_is_kept():
    gru = ConvGRU(2)
    assert {key: tuple(value.shape) for key, value in gru.state_dict().items()} == {
        "ih.0.weight": (4, 4, 3, 3),
        "ih.0.bias": (4,),
        "hh.0.weight": (2, 4, 3, 3),
        "hh.0.bias": (2,),
    }
    out, state = gru(torch.randn(3, 2, 5, 7), torch.zeros(1, 2, 5, 7))
    assert out.shape == (3, 2, 5, 7)
    assert state.shape == (1, 2, 5, 7)
    assert torch.equal(out[-1:], state)


def test_the_step_is_traceable_with_its_gates_as_modules():
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = ConvGRU(2)

        def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            return self.gru.step(x, h)

    step = Step()
    graph = fx.symbolic_trace(step)
    targets = [node.target for node in graph.graph.nodes if node.op == "call_module"]
    assert targets == ["gru.ih.0", "gru.ih.1", "gru.hh.0", "gru.hh.1"]
    x, h = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    for a, b in zip(graph(x, h), step(x, h), strict=True):
        assert torch.equal(a, b)


def test_gradients_flow_back_through_time():
    gru = ConvGRU(2)
    x = torch.randn(4, 2, 5, 5, requires_grad=True)
    out, _ = gru(x, torch.zeros(1, 2, 5, 5))
    out[-1].sum().backward()
    assert x.grad is not None
    assert x.grad[0].abs().sum() > 0
