"""Recording what a network calls, without running or changing it."""

from __future__ import annotations

import copy

import pytest
import torch
from report_support import Wrapped, example
from torch import nn

from binmat.errors import TraceError
from binmat.model_defs.registry import build
from binmat.nn.conv_gru import ConvGRU
from binmat.nn.recurrence import Recurrent
from binmat.reports.call_recorder import record_calls


def test_names_shapes_and_arguments() -> None:
    net = Wrapped(
        lambda m, x: torch.cat([m.conv(x), m.body(x).relu()], dim=1),
        conv=nn.Conv2d(3, 2, 3, stride=2, padding=1),
        body=nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(2, ceil_mode=True)),
    )
    calls = record_calls(net, example(1, 3, 9, 7))
    assert [call.name for call in calls] == ["conv", "body.0", "body.1", "relu", "cat"]
    assert [tuple(call.output.shape) for call in calls] == [
        (1, 2, 5, 4), (1, 4, 9, 7), (1, 4, 5, 4), (1, 4, 5, 4), (1, 6, 5, 4),
    ]  # fmt: skip
    assert calls[-1].argument(1, "dim") == 1
    assert calls[-1].argument(2, "out") is None


def test_functions_carry_the_module_that_calls_them() -> None:
    inner = Wrapped(lambda m, x: m.conv(x) * 2, conv=nn.Conv2d(1, 1, 1))
    net = Wrapped(lambda m, x: m.inner(x) + 1, inner=inner)
    assert [call.name for call in record_calls(net, example(1, 1, 3, 3))] == ["inner.conv", "inner.mul", "add"]


def test_layer_with_two_names_goes_by_its_first() -> None:
    conv = nn.Conv2d(1, 1, 1)
    net = Wrapped(lambda m, x: m.second(m.first(x)), first=conv, second=conv)
    assert [call.name for call in record_calls(net, example(1, 1, 3, 3))] == ["first", "first"]


def test_layer_that_two_recurrences_share_goes_by_its_first_name() -> None:
    first, second = ConvGRU(2), ConvGRU(2)
    second.ih = first.ih
    net = Wrapped(lambda m, x: m.b(m.a(x, x)[0], x)[0], a=first, b=second)
    called = [call.name for call in record_calls(net, example(1, 2, 3, 3)) if isinstance(call.module, nn.Conv2d)]
    assert called == ["a.ih.0", "a.hh.0", "a.ih.0", "b.hh.0"]


def test_the_network_is_left_alone() -> None:
    network = build("rvm_mobilenetv3").train()
    network.aspp.eval()
    flags = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    record_calls(network, network.example(64, 64))
    assert network.programs == {}
    assert [module.training for module in network.modules()] == flags
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not hasattr(network.backbone.features[0][0].weight, "fake_device")


def test_data_is_not_touched() -> None:
    """A frame that no machine could hold is counted all the same."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    huge = torch.empty(1, 3, 1, 1).expand(1, 3, 500_000, 500_000)
    call = example(1, 3, 2, 2)
    call.inputs["x"] = huge
    assert record_calls(net, call)[0].output.numel() == 8 * 500_000**2


def test_what_depends_on_values_is_refused_by_name() -> None:
    class Picky(nn.Module):
        is_leaf = True

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(TraceError, match="Wrapped cannot be counted at these sizes: at 'picky': "):
        record_calls(Wrapped(lambda m, x: m.picky(x), picky=Picky()), example(1, 1, 2, 2))


def test_sizes_that_do_not_fit_are_refused_by_name() -> None:
    net = Wrapped(lambda m, x: m.conv(x), conv=nn.Conv2d(3, 4, 1))
    with pytest.raises(TraceError, match=r"in 'conv', .*channels"):
        record_calls(net, example(1, 2, 4, 4))


def test_what_cannot_be_traced_inside_a_recurrence_is_named_with_its_line() -> None:
    class Choosy(Recurrent):
        def step(self, x: torch.Tensor, h: torch.Tensor, *context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if h.sum() > 0:
                return x, h
            return h, x

    with pytest.raises(TraceError) as error:
        record_calls(Wrapped(lambda m, x: m.memory(x, x)[0], memory=Choosy()), example(1, 1, 2, 2))
    for part in ("Choosy.step of 'memory'", __file__, "if h.sum() > 0:", "is_leaf = True"):
        assert part in str(error.value)
