from __future__ import annotations

import copy
import pickle

import pytest
import torch
from example_networks import ResNet, UNet, randomize
from torch import nn
from torch.nn import functional as F

from binmat.errors import SizeError, TraceError
from binmat.model_defs.network import Example
from binmat.model_defs.rvm import RVM
from binmat.nn import RPReLU
from binmat.transforms.convert import convert, plan_of
from binmat.transforms.nonnegative_inputs import nonnegative_inputs
from binmat.transforms.trace import Program, TracedModule, trace


@pytest.mark.parametrize("build", [UNet, ResNet])
def test_a_traced_module_computes_the_same_and_keeps_its_keys(build):
    module = randomize(build()).eval()
    traced = trace(module)
    x = torch.rand(2, 3, 33, 47)
    assert isinstance(traced, TracedModule)
    assert torch.equal(traced(x), module(x))
    assert list(traced.state_dict()) == list(module.state_dict())


def test_a_traced_module_follows_its_layers_when_they_change():
    traced = trace(UNet()).eval()
    x = torch.rand(1, 3, 16, 16)
    assert traced.double()(x.double()).dtype == torch.float64
    twin = copy.deepcopy(traced)
    with torch.no_grad():
        twin.head.bias.add_(1.0)
    assert not torch.equal(twin(x.double()), traced(x.double()))


def test_root_parameters_and_buffers_come_along():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(2.0))
            self.register_buffer("offset", torch.tensor(1.0), persistent=False)

        def forward(self, x):
            return x * self.gain + self.offset

    traced = trace(Scaled())
    assert list(traced.state_dict()) == ["gain"]
    assert traced(torch.tensor([3.0])).item() == 7.0


def test_tensors_that_the_code_makes_are_kept_and_move_along():
    class Weighted(nn.Module):
        def forward(self, x):
            return x * torch.tensor([2.0, 3.0])

    traced = trace(Weighted(), example=Example("forward", {"x": torch.rand(2)}, ()))
    assert traced(torch.ones(2)).tolist() == [2.0, 3.0]
    assert copy.deepcopy(traced).double()(torch.ones(2, dtype=torch.float64)).dtype == torch.float64
    assert not traced.state_dict()


def test_every_mode_of_a_network_gets_a_program_and_the_official_call_runs_it():
    network = RVM().eval()
    src = torch.rand(1, 2, 3, 32, 48)
    expected = network(src)
    trace(network)
    assert set(network.programs) == {"matting", "refined", "segmentation"}
    assert all(isinstance(program, Program) for program in network.programs.values())
    for got, want in zip(network(src), expected, strict=True):
        assert torch.equal(got, want)


def test_an_untraceable_module_is_reported_with_its_line_and_the_way_out():
    class Branching(nn.Module):
        def forward(self, x):
            if x.sum() > 0:
                return x
            return -x

    with pytest.raises(TraceError) as error:
        trace(Branching())
    message = str(error.value)
    assert "Branching.forward" in message
    assert "if x.sum() > 0:" in message
    assert __file__ in message
    assert "is_leaf = True" in message
    assert "\n" not in message


def test_a_module_with_two_inputs_must_say_what_its_call_is():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x, y):
            return self.conv(x) + y

    # An image for every argument is a good guess here, and no guess of another call.
    assert list(trace(Two()).example(8, 8).inputs) == ["x", "y"]
    network = trace(Two(), example=Example("forward", {"x": torch.rand(1, 3, 4, 4), "y": torch.rand(1)}, ()))
    assert network.example(4, 4).outputs == ("output0",)
    with pytest.raises(SizeError, match="Two was traced with example inputs of 4x4: for 8x8 pass an Example"):
        network.example(8, 8)


class Named(nn.Module):
    """Passes its inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(input=self.first(input=x))
        x = F.leaky_relu(input=self.middle(input=x), negative_slope=0.2)
        return torch.sigmoid(input=self.last(x))


def test_inputs_given_by_name_are_found_by_the_passes() -> None:
    module, x = Named().eval(), torch.rand(1, 3, 4, 5)
    assert torch.equal(trace(module)(x), module(x))
    binary = convert(module, "reactnet").eval()
    assert any(isinstance(layer, RPReLU) for layer in binary.modules())
    assert binary(x).shape == (1, 1, 4, 5)
    assert nonnegative_inputs(convert(module, "bnn"), "forward") == ("middle",)


def test_a_converted_network_can_be_pickled() -> None:
    binary, x = convert(Named(), "reactnet").eval(), torch.rand(1, 3, 4, 5)
    again = pickle.loads(pickle.dumps(binary))
    assert torch.equal(again(x), binary(x))
    assert plan_of(again) == plan_of(binary)
    # It runs on its own layers, not on those that it was copied from.
    with torch.no_grad():
        again.get_parameter("last.bias").add_(1)
    assert not torch.equal(again(x), binary(x))


def test_a_program_holds_no_layer_and_minds_no_name() -> None:
    class Odd(nn.Module):
        """Its layers have names that an fx GraphModule has uses of its own for."""

        def __init__(self) -> None:
            super().__init__()
            self.graph, self.code, self.meta = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.meta(self.code(self.graph(x))) * self.graph.weight.sum()

    module, x = Odd(), torch.rand(1, 3, 4, 5)
    traced = trace(module)
    program = traced.programs["forward"]
    assert torch.equal(traced(x), module(x))
    assert program.graph.owning_module is None
    for twin in (copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
        assert torch.equal(twin(module, x)[0], module(x))
        assert twin.graph is not program.graph
        assert twin.graph.owning_module is None
    traced.set_submodule("meta", nn.Identity())
    assert traced(x).shape == (1, 4, 4, 5)


def test_an_argument_called_input_is_the_examples() -> None:
    network = trace(nn.Sequential(nn.Conv2d(3, 8, 1)))
    assert list(network.example(4, 4).inputs) == ["input"]
