"""Modules that binmat does not know: what their code may do, and what the graph must then compute."""

from __future__ import annotations

import copy
import pickle
import random
import threading
from collections import OrderedDict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.errors import InputError, SizeError, TraceError
from binmat.model_defs.network import Example
from binmat.reports.call_recorder import record_calls
from binmat.transforms.convert import convert
from binmat.transforms.trace import graphs, trace
from binmat.transforms.traced_module import TRAINING


class Runs(nn.Module):
    """Runs any function of itself and an image."""

    def __init__(self, function, **parts) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def same_in_both_modes(module: nn.Module, *inputs: Tensor, size=(8, 12)) -> None:
    traced = trace(module, size)
    assert not traced.untrainable
    for training in (False, True):
        twins = [copy.deepcopy(module).train(training), copy.deepcopy(traced).train(training)]
        results = []
        for twin in twins:
            torch.manual_seed(0)
            results.append(twin(*[value.clone() for value in inputs]))
        assert torch.equal(*results)


def pads_to_even(m, x):
    if x.shape[-1] % 2:
        x = F.pad(x, (0, 1))
    return x


def repeats_by_size(m, x):
    for _ in range(x.shape[1]):
        x = x * 1.5
    return x


def checks_dtype_and_device(m, x):
    if x.dtype is torch.float32 and x.device.type == "cpu" and isinstance(x, Tensor) and x.dim() == 4:
        return x + 1
    return x


def lists_of_sizes(m, x):
    size = [2 * s for s in x.size()[2:]]
    return F.interpolate(x, size=size, mode="nearest").view(x.size(0), -1, size[0] * size[1])


def in_place(m, x):
    y = x * 2
    z = y
    z += 1
    y.relu_()
    torch.mul(y, 3, out=y)
    return z + y


def writes_a_part(m, x):
    y = x * 1
    y[:, :1] = 0
    y[..., 2:4] += 5
    return y


def makes_tensors(m, x):
    grid = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
    return x * grid + torch.zeros(x.shape[1], 1, 1) + torch.tensor([0.5])


def drops(m, x):
    return F.dropout(x, 0.5, m.training)


def gates_in_evaluation(m, x):
    return x if m.training else torch.sigmoid(x)


def drops_paths(m, x):
    if not m.training:
        return x
    return x * torch.rand(x.shape[0], 1, 1, 1).round()


def stops_gradients(m, x):
    with torch.no_grad():
        y = m.conv(x)
    return y + m.conv(x)


@pytest.mark.parametrize(
    "function",
    [pads_to_even, repeats_by_size, checks_dtype_and_device, lists_of_sizes, in_place, writes_a_part, makes_tensors,
     drops, gates_in_evaluation, drops_paths, stops_gradients],
)  # fmt: skip
def test_what_code_may_do(function) -> None:
    same_in_both_modes(Runs(function, conv=nn.Conv2d(3, 3, 1)), torch.rand(2, 3, 8, 12))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.conv(x).log(),
        lambda m, x: m.conv(x).sqrt(),
        lambda m, x: m.conv(x) / 0,
        lambda m, x: torch.softmax(m.conv(x).masked_fill(x < 0.5, float("-inf")), 1),
        lambda m, x: torch.full_like(m.conv(x), float("inf")),
    ],
)
def test_values_that_are_not_finite_are_compared(function) -> None:
    module = Runs(function, conv=nn.Conv2d(3, 3, 1)).eval()
    traced, x = trace(copy.deepcopy(module), (8, 12)), torch.rand(1, 3, 8, 12)
    assert not traced.untrainable
    assert torch.allclose(traced(x), module(x), rtol=0, atol=0, equal_nan=True)


def test_training_and_evaluation_have_a_graph_each_where_they_differ() -> None:
    assert set(graphs(trace(Runs(drops)))) == {"forward", TRAINING}
    assert set(graphs(trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())))) == {"forward"}


def test_gradients_stop_where_the_code_stops_them() -> None:
    module = Runs(stops_gradients, conv=nn.Conv2d(3, 3, 1)).train()
    traced = trace(copy.deepcopy(module)).train()
    x = torch.rand(1, 3, 4, 4)
    for network in (module, traced):
        network(x).sum().backward()
    assert torch.equal(traced.conv.weight.grad, module.conv.weight.grad)


def test_a_batch_norm_behind_a_global_pool_is_trained_with_more_than_one_image() -> None:
    norm = nn.BatchNorm2d(3)
    same_in_both_modes(Runs(lambda m, x: m.norm(x.mean((2, 3), keepdim=True)), norm=norm), torch.rand(2, 3, 8, 12))


def test_training_that_needs_two_images_follows_sizes() -> None:
    def pooled(m, x):
        return F.dropout(x, 0.5, m.training) + m.norm(x.mean((2, 3), keepdim=True))

    network = trace(Runs(pooled, norm=nn.BatchNorm2d(3)), (8, 12)).train()
    assert network.training_copies == 2
    assert network(torch.rand(4, 3, 10, 14)).shape == (4, 3, 10, 14)


def test_integer_inputs_stay_integers_when_a_network_is_converted() -> None:
    def looks_up(m, x):
        return m.last(m.middle(m.table(x)))

    layers = {"table": nn.Embedding(5, 4), "middle": nn.Linear(4, 4), "last": nn.Linear(4, 2)}
    example = Example("forward", {"x": torch.tensor([[0, 4, 2]])}, ())
    network = convert(Runs(looks_up, first=nn.Linear(4, 4), **layers), "bnn", example=example)
    assert network(torch.tensor([[1, 3, 0]])).shape == (1, 3, 2)


def test_what_cannot_be_trained_says_so_when_it_is() -> None:
    def picky(m, x):
        if m.training:
            raise ValueError("for inference only")
        return x

    network = trace(Runs(picky))
    assert network.eval()(torch.rand(1, 3, 4, 4)).shape == (1, 3, 4, 4)
    with pytest.raises(TraceError, match=r"Runs cannot be trained: .*for inference only"):
        network.train()(torch.rand(1, 3, 4, 4))


def test_a_size_at_which_the_code_decides_otherwise_is_refused_with_its_line() -> None:
    network = trace(Runs(pads_to_even), (8, 12))
    assert network(torch.rand(1, 3, 10, 14)).shape == (1, 3, 10, 14)
    with pytest.raises(SizeError, match=rf"{__file__}:\d+ depends on the size: it gave False .* gives True now"):
        network(torch.rand(1, 3, 10, 13))


def test_sizes_that_only_flow_are_followed() -> None:
    network, module = trace(Runs(lists_of_sizes), (8, 12)), Runs(lists_of_sizes)
    x = torch.rand(2, 3, 5, 7)
    assert torch.equal(network(x), module(x))


def test_what_needs_the_values_of_a_tensor_is_refused_with_its_line() -> None:
    for function in (lambda m, x: x[x > 0.5], lambda m, x: x * x.max().item()):
        with pytest.raises(TraceError, match=rf"Runs\.forward.*{__file__}:\d+: .*needs the values of a tensor"):
            trace(Runs(function))


def loops_over_the_height(m, x):
    return sum(x[:, :, i : i + 1] for i in range(x.shape[2]))


def shifts_the_width(m, x):
    return F.pad(x, (0, x.shape[-1] >> 1))


def one_by_one(m, x):
    return torch.cat([m.conv(x[i : i + 1]) for i in range(x.shape[0])])


@pytest.mark.parametrize("function", [loops_over_the_height, shifts_the_width, lambda m, x: torch.stack(x.unbind(2))])
def test_a_size_that_leaves_torch_is_the_only_one(function) -> None:
    network, module = trace(Runs(function), (8, 12)), Runs(function)
    x = torch.rand(2, 3, 8, 12)
    assert torch.equal(network(x), module(x))
    with pytest.raises(SizeError, match=r"the code of Runs, by dimension .* depends on the size"):
        network(torch.rand(1, 3, 16, 24))


def test_a_batch_that_code_loops_over_is_the_only_one() -> None:
    network = trace(Runs(one_by_one, conv=nn.Conv2d(3, 2, 1)))
    assert network(torch.rand(1, 3, 6, 6)).shape == (1, 2, 6, 6)
    with pytest.raises(SizeError, match=r"by dimension 0 of 'x', depends on the size: it gave 1 .* gives 4 now"):
        network(torch.rand(4, 3, 6, 6))


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_a_backward_pass_of_the_users_own_is_not_lost_in_silence() -> None:
    network = trace(Runs(lambda m, x: Straight.apply(m.conv(x)), conv=nn.Conv2d(3, 2, 1)))
    x = torch.rand(1, 3, 4, 4)
    assert torch.equal(network.eval()(x), network.conv(x).round())
    with pytest.raises(TraceError, match=r"the gradient of 'conv\.weight' is not the one that Runs itself gives"):
        network.train()(x)


def test_what_python_draws_is_refused() -> None:
    with pytest.raises(TraceError, match="Runs draws from Python's random"):
        trace(Runs(lambda m, x: x * random.random()))


def test_a_tensor_reached_through_a_closure_is_refused() -> None:
    module = Runs(None, conv=nn.Conv2d(3, 2, 1))
    module.function = lambda m, x: F.conv2d(x, module.conv.weight)
    with pytest.raises(TraceError, match="reaches a tensor of the module by another way"):
        trace(module)


def test_a_child_with_two_names_keeps_both() -> None:
    module = Runs(lambda m, x: m.second(m.first(x)), first=nn.Conv2d(3, 3, 1))
    module.second = module.first
    network = trace(module)
    assert list(network.state_dict()) == list(module.state_dict())
    assert network.second is network.first


def test_errors_leave_gradients_on() -> None:
    def fails(m, x):
        with torch.no_grad():
            return m.conv(x)

    network = trace(Runs(fails, conv=nn.Conv2d(3, 2, 1))).train()
    with pytest.raises(RuntimeError):
        network(torch.rand(1, 4, 4, 4))
    assert torch.is_grad_enabled()


def test_several_threads_trace() -> None:
    before = nn.Module.__call__
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: trace(nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())), range(6)))
    assert len({str(graphs(network)["forward"]) for network in found}) == 1
    assert nn.Module.__call__ is before


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (torch.jit.script(nn.ReLU()), "is compiled .*pass the Python module"),
        (Runs(lambda m, x: x, lock=threading.Lock()), "Runs cannot be copied"),
    ],
)
def test_what_cannot_be_traced_says_so_in_one_line(module, message) -> None:
    with pytest.raises(TraceError, match=message) as error:
        convert(module, "bnn")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [64, (64,), "64x64", (64.0, 64.0), (0, 4)])
def test_a_size_that_is_none_is_refused(size) -> None:
    with pytest.raises(SizeError, match="size"):
        convert(nn.Conv2d(3, 2, 1), "bnn", size=size)


def test_state_that_a_call_leaves_behind_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            self.calls += 1
            return self.conv(x) * self.calls

    with pytest.raises(TraceError, match=r"does not compute what Counting computes: 'output0' .*an earlier call"):
        trace(Counting())


Pair = namedtuple("Pair", "fine coarse")


@dataclass
class Mattes:
    alpha: Tensor
    other: Tensor | None = None


@pytest.mark.parametrize(
    ("pack", "names"),
    [
        (lambda a, b: (a, [b, None]), ("output0", "output1_0")),
        (lambda a, b: {"alpha": a, "deep": {"x": b, "n": 3}}, ("alpha", "deep_x")),
        (lambda a, b: OrderedDict(out=a, aux=b), ("out", "aux")),
        (lambda a, b: Pair(a, b), ("fine", "coarse")),
        (lambda a, b: Mattes(a), ("alpha",)),
        (lambda a, b: a, ("output0",)),
    ],
)
def test_any_structure_is_returned(pack, names) -> None:
    module = Runs(lambda m, x: pack(m.conv(x), x + 1), conv=nn.Conv2d(3, 2, 1)).eval()
    x = torch.rand(1, 3, 4, 4)
    network = trace(module)
    assert network.traced_example.outputs == names
    got, want = network(x), module(x)
    assert type(got) is type(want)
    leaves = [torch.utils._pytree.tree_flatten(value) for value in (got, want)]
    assert leaves[0][1] == leaves[1][1]
    for a, b in zip(leaves[0][0], leaves[1][0], strict=True):
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


class Matting(nn.Module):
    """A dictionary, an optional tensor and an option."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 1, 1)

    def forward(self, batch: dict, prior: Tensor | None = None, *, sharpen: bool = False):
        y = self.conv(torch.cat([batch["image"], batch["trimap"].float()], 1))
        y = y if prior is None else y + prior
        return {"alpha": y * 2 if sharpen else y, "image": batch["image"]}


def batch(height: int = 4) -> dict[str, Tensor]:
    return {"image": torch.rand(1, 3, height, 6), "trimap": torch.randint(0, 3, (1, 1, height, 6))}


def test_the_call_of_the_traced_network_is_the_call_of_the_module() -> None:
    module = Matting().eval()
    inputs = {"batch": batch(), "prior": torch.rand(1, 1, 4, 6)}
    network = trace(module, example=Example("forward", inputs, ()))
    assert list(network.traced_example.inputs) == ["batch_image", "batch_trimap", "prior"]
    assert network.traced_example.outputs == ("alpha", "image")
    other, prior = batch(5), torch.rand(1, 1, 5, 6)
    for got in (network(other, prior), network(batch=other, prior=prior), network(other, prior=prior, sharpen=False)):
        assert torch.equal(got["alpha"], module(other, prior)["alpha"])
        assert got["image"] is other["image"]


def test_an_example_without_outputs_gets_their_names() -> None:
    class Two(nn.Module):
        def forward(self, x, y):
            return [x + y, x - y]

    example = Example("forward", {"x": torch.rand(1, 3, 4, 4), "y": torch.rand(1, 3, 4, 4)}, ())
    assert trace(Two(), example=example).flattened(example).outputs == ("output0", "output1")


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((), {"sharpen": True}, "sharpen was False when it was traced and is True now"),
        ((None,), {}, "prior was a tensor when it was traced and is None now"),
        ((), {"blur": True}, "unexpected keyword argument 'blur'"),
    ],
)
def test_a_call_that_was_not_traced_is_refused(args, options, message) -> None:
    network = trace(Matting(), example=Example("forward", {"batch": batch(), "prior": torch.rand(1, 1, 4, 6)}, ()))
    call = args or (torch.rand(1, 1, 4, 6),)
    with pytest.raises(InputError, match=message):
        network(batch(), *call, **options)


def test_an_example_that_is_no_call_is_refused() -> None:
    with pytest.raises(InputError, match="the example inputs have no 'batch'"):
        trace(Matting(), example=Example("forward", {"prior": torch.rand(1)}, ()))


def test_a_call_that_cannot_be_guessed_says_what_to_pass() -> None:
    with pytest.raises(TraceError, match=r"called with batch \[1, 4, 64, 64\].*pass size=.* or example=Example"):
        trace(Matting())


def test_names_that_networks_use_get_an_underscore() -> None:
    names = ("predict", "name", "config", "run", "example")
    module = nn.Sequential(OrderedDict((name, nn.Conv2d(3, 3, 1)) for name in names)).eval()
    network, x = trace(module), torch.rand(1, 3, 4, 4)
    assert [name for name, _ in network.named_children()] == [f"{name}_" for name in names]
    torch.testing.assert_close(network(x), module(x))


class Frozen(nn.Module):
    """Batch norm as arithmetic on buffers, as torchvision's FrozenBatchNorm2d."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(3))
        self.register_buffer("running_var", torch.ones(3))

    def forward(self, x):
        scale = self.weight.reshape(1, -1, 1, 1) * self.running_var.reshape(1, -1, 1, 1).rsqrt()
        return x * scale


def test_arithmetic_on_buffers_is_done_when_the_graph_runs() -> None:
    network = trace(nn.Sequential(nn.Conv2d(3, 3, 1), Frozen()))
    network.load_state_dict(network.state_dict() | {"1.weight": torch.full((3,), 5.0)})
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(network(x), network.get_submodule("0")(x) * 5)


def test_buffers_that_a_call_replaces_are_written() -> None:
    def smooths(m, x):
        m.seen = 0.5 * m.seen + x.mean()
        return x - m.seen

    module = Runs(smooths)
    module.register_buffer("seen", torch.zeros(()))
    network = trace(copy.deepcopy(module))
    for _ in range(2):
        x = torch.rand(1, 3, 4, 4)
        assert torch.equal(network(x), module(x))
    assert torch.equal(network.seen, module.seen)


def test_the_graph_goes_on_with_the_dtype_of_the_network() -> None:
    layers = Runs(lambda m, x: m.conv(x.to(torch.float32)) + torch.zeros(2, 1, 1), conv=nn.Conv2d(3, 2, 1))
    network = trace(layers).double()
    assert network(torch.rand(1, 3, 4, 4, dtype=torch.float64)).dtype is torch.float64


def test_a_frozen_layer_stays_frozen() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
    module[1].eval()
    assert [layer.training for layer in trace(module).modules()] == [True, True, False]


def test_the_module_is_left_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
    state = copy.deepcopy(module.state_dict())
    trace(module)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert type(module[0].weight) is nn.Parameter


def test_copies_and_pickles_take_the_same_call() -> None:
    network = trace(Matting(), example=Example("forward", {"batch": batch()}, ())).eval()
    inputs = batch()
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(inputs)["alpha"], network(inputs)["alpha"])


def test_a_graph_of_training_that_needs_two_images_is_run_with_two() -> None:
    def pools(m, x):
        y = F.batch_norm(m.hidden(m.first(x)).mean((2, 3)), m.mean, m.var, training=m.training)
        return m.last(y)

    parts = {"first": nn.Conv2d(3, 4, 1), "hidden": nn.Conv2d(4, 4, 1), "last": nn.Linear(4, 2)}
    module = Runs(pools, **parts)
    module.register_buffer("mean", torch.zeros(4))
    module.register_buffer("var", torch.ones(4))
    network = convert(module.eval(), "bnn", size=(8, 8))
    assert [name for name, plan in network.conversion.plan.items() if plan.scheme] == ["hidden"]
    assert network.train()(torch.rand(2, 3, 8, 8)).shape == (2, 2)


def asks_for_gradients(m, x):
    return m.conv(x) * (2 if torch.is_grad_enabled() else 3)


def test_code_that_asks_whether_gradients_are_on() -> None:
    module, x = Runs(asks_for_gradients, conv=nn.Conv2d(3, 3, 1)).eval(), torch.rand(1, 3, 8, 12)
    network = trace(copy.deepcopy(module), (8, 12))
    with torch.no_grad():
        assert torch.equal(network(x), module(x))
    with pytest.raises(TraceError, match=r"test_traced_module.py:\d+ asks whether gradients are on: they were off"):
        network(x)
    assert torch.equal(network.train()(x), module.train()(x))
    with torch.no_grad(), pytest.raises(TraceError, match="they were on when it was traced and are off now"):
        network(x)
    assert [call.target for call in record_calls(network, network.example(8, 12))] == [nn.Conv2d, "mul"]
    row = nn.Sequential(nn.Conv2d(3, 3, 1), module, nn.Conv2d(3, 1, 1)).eval()
    with torch.no_grad():
        assert convert(row, "bnn", size=(8, 12)).eval()(x).shape == (1, 1, 8, 12)


def asks_while_it_trains(m, x):
    return m.conv(x).detach() if torch.is_grad_enabled() and m.training else m.conv(x)


def test_an_answer_that_decides_nothing_is_not_checked() -> None:
    module, x = Runs(asks_while_it_trains, conv=nn.Conv2d(3, 3, 1)).eval(), torch.rand(1, 3, 8, 12)
    network = trace(copy.deepcopy(module), (8, 12))
    with torch.no_grad():
        assert torch.equal(network(x), module(x))
    assert torch.equal(network(x), module(x))
    assert network(x).requires_grad
    assert not network.train()(x).requires_grad
    with torch.no_grad(), pytest.raises(TraceError, match="they were on when it was traced and are off now"):
        network(x)


def both_alike(m, x):
    if torch.is_grad_enabled():
        return m.conv(x) * 2
    return m.conv(x) * 2


def test_an_answer_that_decides_nothing_in_training_is_not_checked() -> None:
    network, x = trace(Runs(both_alike, conv=nn.Conv2d(3, 3, 1)), (8, 12)).train(), torch.rand(1, 3, 8, 12)
    with torch.no_grad():
        without = network(x)
    assert torch.equal(network(x), without)


ONE, TWO = torch.ones(1), torch.full((1,), 2.0)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.conv(x) * (ONE if torch.is_grad_enabled() else TWO),
        lambda m, x: {"on" if torch.is_grad_enabled() else "off": m.conv(x)},
        lambda m, x: (m.conv(x), "on" if torch.is_grad_enabled() else "off"),
        lambda m, x: m.conv(x) if not torch.is_grad_enabled() else m.absent(x),
    ],
)
def test_an_answer_that_decides_constants_or_structure_is_checked(function) -> None:
    network = trace(Runs(function, conv=nn.Conv2d(3, 3, 1)).eval(), (8, 12))
    with torch.no_grad():
        network(torch.rand(1, 3, 8, 12))
    with pytest.raises(TraceError, match="asks whether gradients are on: they were off"):
        network(torch.rand(1, 3, 8, 12))


def test_an_explicit_float_stays_float32() -> None:
    module = Runs(lambda m, x: m.conv(x).float().square(), conv=nn.Conv2d(3, 3, 1)).eval()
    network, x = trace(copy.deepcopy(module), (8, 8)).bfloat16(), torch.rand(1, 3, 8, 8).bfloat16()
    result = network(x)
    assert result.dtype is torch.float32 and torch.equal(result, module.bfloat16()(x))


@pytest.mark.parametrize("lazy", [nn.LazyConv2d(4, 1), nn.LazyBatchNorm2d()])
def test_lazy_layers_without_weights_are_refused(lazy: nn.Module) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), lazy, nn.Conv2d(4, 1, 1))
    for call in (lambda: trace(module, (8, 8)), lambda: convert(module, "bnn", size=(8, 8))):
        with pytest.raises(TraceError, match=rf"^'1' \({type(lazy).__name__}\) has no weights yet: call the module"):
            call()
    module(torch.rand(2, 3, 8, 8))
    assert convert(module, "bnn", size=(8, 8))(torch.rand(2, 3, 8, 8)).shape == (2, 1, 8, 8)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x, scale):
        return self.conv(x) * float(scale[0])


def test_an_array_of_numpy_is_an_argument_that_stays_as_it_was() -> None:
    module, x = Scaled().eval(), torch.rand(1, 3, 8, 8)
    network = trace(copy.deepcopy(module), example=Example("forward", {"x": x, "scale": np.array([2.0, 3.0])}, ()))
    assert torch.equal(network(x, np.array([2.0, 3.0])), module(x, np.array([2.0, 3.0])))
    for other in (np.array([2.0, 4.0]), np.zeros(3), None):
        with pytest.raises(InputError, match=r"scale was array\(\[2., 3.\]\) when it was traced and is"):
            network(x, other)
