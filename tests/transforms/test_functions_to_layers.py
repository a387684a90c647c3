"""What is planned binary is what the graphs call: subclasses, functions and layers that no call reaches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binmat.errors import PolicyError
from binmat.nn import BinaryLayer
from binmat.reports import stored_bits
from binmat.transforms.convert import convert, plan_of
from binmat.transforms.executed import check_executed
from binmat.transforms.trace import trace


class Plain(nn.Conv2d):
    pass


class Padded(nn.Conv2d):
    """Pads on the right and below only, as TensorFlow does at stride 2."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * F.linear(x, self.weight, bias=self.bias)


class Between(nn.Module):
    """A layer between a first and a last one; as tokens where the layer is linear."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = nn.Conv2d(3, 4, 1), layer, nn.Conv2d(4, 1, 1)
        self.unused, self.auxiliary = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 1, 1)

    def call(self, x):
        return self.layer(x)

    def forward(self, x):
        x = self.call(self.first(x))
        return self.last(x) + (self.auxiliary(x) if self.training else 0)


class Functional(Between):
    """Uses the layer's weight without calling the layer."""

    def call(self, x):
        return F.conv2d(x, self.layer.weight, self.layer.bias, padding=1)


class Tokens(Between):
    def call(self, x):
        return self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class Attending(Tokens):
    def call(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.layer(tokens, tokens, tokens)[0].transpose(1, 2).reshape(x.shape)


BINARY = [
    Between(nn.Conv2d(4, 4, 3, padding=1)),
    Between(Plain(4, 4, 3, padding=1)),
    Between(Plain(4, 4, 3, padding=1, padding_mode="reflect", bias=False)),
    Between(Plain(4, 4, 3, padding="same", dilation=2)),
    Between(Padded(4, 4, 2, groups=2)),
    Functional(nn.Conv2d(4, 4, 3)),
    Tokens(Scaled(4, 4)),
]
FLOAT = [
    (Between(Standardised(4, 4, 3, padding=1)), "layer", "its weight goes through functions, and its class is Stand"),
    (Between(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), "layer", "padding mode 'reflect'"),
    (Attending(nn.MultiheadAttention(4, 2, batch_first=True)), "layer.out_proj", "'layer' computes with its weight"),
]


@pytest.mark.parametrize("module", BINARY, ids=lambda module: f"{type(module).__name__}-{module.layer}")
def test_what_is_called_becomes_binary_and_computes_the_same_sums(module: Between) -> None:
    module = module.eval()
    network = convert(module, "bnn", size=(5, 6)).eval()
    assert plan_of(network)["layer"].precision == "binary"
    # The same network with signs in place of the layer's weight and input.
    reference = copy.deepcopy(module)
    layer = network.layer
    assert isinstance(layer, BinaryLayer)
    with torch.no_grad():
        reference.layer.weight.copy_(layer.weight.clamp(-1, 1).sign())
        reference.first.weight.copy_(module.first.weight)
    original = reference.call
    reference.call = lambda x: original(torch.where(x >= 0, 1.0, -1.0))
    x = torch.rand(2, 3, 5, 6) - 0.5
    # Away from the border, where a sign is padded, or the sign of what is padded is taken.
    torch.testing.assert_close(network(x)[..., 2:-2, 2:-2], reference(x)[..., 2:-2, 2:-2])


class CalledToo(Between):
    def call(self, x):
        return F.conv2d(self.layer(x), self.layer.weight)


def test_a_layer_that_is_called_as_well_stays_as_it_is() -> None:
    module, x = CalledToo(nn.Conv2d(4, 4, 1)).eval(), torch.rand(1, 3, 5, 6)
    network = convert(module, "bnn", size=(5, 6), settings=["layer=float"]).eval()
    assert torch.equal(network(x), module(x))


def test_hooks_of_a_layer_with_a_class_of_its_own_act_once() -> None:
    module, x = Between(Plain(4, 4, 1)).eval(), torch.rand(1, 3, 5, 6)
    module.layer.register_forward_hook(lambda layer, inputs, output: output * 2)
    network = convert(module, "bnn", size=(5, 6), settings=["layer=float"]).eval()
    torch.testing.assert_close(network(x), module(x))


@pytest.mark.parametrize(("module", "name", "reason"), FLOAT, ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_layer_cannot_be_is_float_with_its_reason(module: Between, name: str, reason: str) -> None:
    network = convert(module, "bnn", size=(5, 6))
    plan = plan_of(network)[name]
    assert plan.precision == "float"
    assert reason in plan.reason
    with pytest.raises(PolicyError, match=f"layer '{name}' cannot be binary: "):
        convert(module, "bnn", size=(5, 6), settings=[f"{name}=reactnet"])


def test_what_no_call_reaches_stays_float_and_is_not_stored() -> None:
    network = convert(Between(nn.Conv2d(4, 4, 3, padding=1)), "bnn", size=(5, 6))
    for name in ("unused", "auxiliary"):
        assert plan_of(network)[name].reason == "no call reaches it in evaluation"
    assert set(stored_bits(network)) == {"first", "layer", "last"}
    # By hand: 4*3+4 and 4+1 floats; 4*4*9 bits and 4 floats of bias.
    assert stored_bits(network) == {"first": 16 * 32, "layer": 144 + 4 * 32, "last": 5 * 32}


def test_a_planned_layer_that_is_not_called_is_found() -> None:
    network = trace(Between(nn.Conv2d(4, 4, 3, padding=1)), (5, 6))
    check_executed(network, ["layer"])
    with pytest.raises(PolicyError, match="planned binary, but no call reaches: unused; leave them float"):
        check_executed(network, ["layer", "unused"])
