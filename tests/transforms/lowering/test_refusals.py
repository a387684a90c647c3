"""What cannot be lowered is refused in one line, and what only looks like it lowers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binmat.errors import LoweringError
from binmat.model_defs.network import Example, Network
from binmat.transforms.lowering.lower import lower
from binmat.transforms.trace import trace


class Leaf(nn.Module):
    """A module that fx does not look into."""

    is_leaf = True

    def __init__(self, function, **buffers):
        super().__init__()
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return self.function(self, x)


class Holder(Network):
    """A network of one leaf, which the trace does not look into either."""

    name = "holder"

    def __init__(self, leaf):
        super().__init__()
        self.add_module("0", leaf)

    def frames(self, x):
        return self.get_submodule("0")(x)


def lower_leaf(function, x, dtype=torch.float32, **buffers):
    network = trace(Holder(Leaf(function, **buffers))).eval()
    return lower(network, Example("forward", {"input": x}, ("y",)), dtype)


REFUSED = {
    "random numbers": (
        lambda _, x: x + torch.randn_like(x),
        "random numbers in evaluation mode .*randn_like.*self.training",
    ),
    "dropout that stays": (lambda _, x: F.dropout(x, 0.5, True), "random numbers in evaluation mode .*bernoulli"),
    "a size that depends on values": (lambda _, x: x[x > 0], "depends on the values of a tensor .*torch.where"),
    "a number that depends on values": (
        lambda _, x: x * x.max().item(),
        "depends on the values of a tensor .*torch.where",
    ),
    "a branch that depends on values": (
        lambda _, x: x if x.sum() > 0 else -x,
        "depends on the values of a tensor .*torch.where",
    ),
    "different values": (lambda _, x: x.unique(), "depends on the values of a tensor"),
    "checks of values": (lambda _, x: torch.linalg.inv(x), "checks values while it runs"),
    "sizes that do not fit": (lambda _, x: x @ x, "must run there first"),
    "an error of Python": (lambda _, x: x.no_such_method(), "no_such_method.* \\(layer '0'.*must run there first"),
    "a buffer that changes": (lambda self, x: x + self.steps.add_(1), "changes its '0.steps' .* Make it an input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line(name):
    function, message = REFUSED[name]
    size = (4, 4) if name == "checks of values" else (4, 5)
    with pytest.raises(LoweringError, match=message) as caught:
        lower_leaf(function, torch.randn(size), steps=torch.zeros(()))
    assert "\n" not in str(caught.value)


def test_a_refusal_names_the_users_line():
    network = trace(nn.Sequential(Leaf(lambda _, x: x + torch.randn_like(x)))).eval()
    for node in network.programs["forward"].graph.nodes:
        node.stack_trace = (
            f'  File "/home/u/net.py", line 7, in forward\n    y = x\n  File "{torch.__file__}", line 1, in f\n'
        )
    with pytest.raises(LoweringError, match=r"at /home/u/net\.py:7"):
        lower(network, Example("forward", {"input": torch.randn(3)}, ("y",)))


def test_numbers_of_buffers_are_written_into_the_graph():
    x = torch.randn(4)
    graph = lower_leaf(lambda self, x: x * self.factor.item(), x, factor=torch.tensor(2.5))
    torch.testing.assert_close(graph(x)[0], 2.5 * x)
    assert [node.op for node in graph.module.graph.nodes] == ["placeholder", "call_function", "output"]


def test_writes_to_copies_of_state_count():
    def function(self, x):
        bias = self.bias.clone()
        bias[1:3].zero_()
        return x + bias

    x = torch.randn(4)
    torch.testing.assert_close(
        lower_leaf(function, x, bias=torch.ones(4))(x)[0], x + torch.tensor([1.0, 0.0, 0.0, 1.0])
    )


CASTS = {
    "half": lambda self, x: (x.half() * 2).float() + x,
    "to float": lambda self, x: F.linear(x.float(), self.weight),
    "to double": lambda self, x: x.double().softmax(-1).to(x.dtype),
    "autocast": lambda self, x: autocast_linear(x, self.weight),
    "factories": lambda self, x: (
        torch.linspace(0, 1, 4) @ self.weight.t() + torch.zeros(4, 4, dtype=torch.float32) @ x.mT
    ),
    "tensor literals": lambda self, x: torch.tensor([[0.5, 1, 2, 3]]).matmul(x.mT),
    "integers": lambda self, x: x.index_select(1, self.order) + torch.arange(4) + (x > 0) + x.argmax(1, keepdim=True),
}


def autocast_linear(x, weight):
    with torch.autocast("cpu"):
        return F.linear(x, weight)


@pytest.mark.parametrize("name", CASTS)
def test_every_float_has_the_type_of_the_graph(name):
    state = {"weight": torch.randn(4, 4), "order": torch.tensor([3, 1, 0, 2])}
    x = torch.randn(4, 4)
    graphs = {dtype: lower_leaf(CASTS[name], x, dtype, **state) for dtype in (torch.float32, torch.float64)}
    nodes = [list(graph.module.graph.nodes) for graph in graphs.values()]
    calls = [[(n.op, n.target if n.op == "call_function" else None) for n in each] for each in nodes]
    assert calls[0] == calls[1]
    for dtype, graph in graphs.items():
        values = [node.meta["val"].dtype for node in graph.module.graph.nodes if "val" in node.meta]
        assert {value for value in values if value.is_floating_point} == {dtype}
    narrow, wide = graphs[torch.float32](x)[0], graphs[torch.float64](x.double())[0]
    torch.testing.assert_close(narrow.double(), wide, rtol=0, atol=1e-5)


def test_buffers_and_inputs_of_integers_keep_their_type():
    class Lookup(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("order", torch.tensor([2, 0, 1]))

        def forward(self, x, i):
            return x[:, self.order] * i

    network = trace(Lookup())
    example = Example("forward", {"x": torch.randn(2, 3), "i": torch.tensor([[3], [4]])}, ("y",))
    graph = lower(network, example, torch.float64)
    x, i = torch.randn(2, 3, dtype=torch.float64), torch.tensor([[5], [-1]])
    assert torch.equal(graph(x, i)[0], x[:, [2, 0, 1]] * i)
    kinds = [node.meta["val"].dtype for node in graph.module.graph.nodes if node.op == "placeholder"]
    assert kinds == [torch.float64, torch.int64]
