from __future__ import annotations

import pytest
import torch
from example_networks import ResNet, UNet
from torch import nn
from torch.nn import functional as F

from binmat.nn import RPReLU
from binmat.nn.operators import OPERATORS
from binmat.transforms.convert import convert


def rprelus(network):
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, RPReLU)}


def test_functions_methods_and_modules_behind_binary_layers_become_rprelu():
    found = rprelus(convert(UNet(), "reactnet"))
    assert set(found) == {"down2_rprelu", "middle_rprelu", "up_rprelu"}
    assert found["down2_rprelu"].slope.shape == (16,)


def test_a_module_that_serves_twice_is_replaced_apart():
    network = convert(ResNet(), "reactnet")
    found = rprelus(network)
    assert {"stage1.conv1_rprelu", "stage2.conv1_rprelu", "hidden_rprelu"} == set(found)
    # The second ReLU follows an addition, not a binary layer.
    assert isinstance(network.get_submodule("stage1.relu"), nn.ReLU)


def test_a_module_of_its_own_gives_up_its_name():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6), nn.LeakyReLU(0.1), nn.Conv2d(6, 1, 1)
    )
    network = convert(module, "reactnet")
    assert set(rprelus(network)) == {"3"}
    torch.testing.assert_close(network.get_submodule("3").slope, torch.full((6,), 0.1))


def test_slopes_start_where_the_replaced_function_has_them():
    def start(activation):
        module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), activation, nn.Conv2d(2, 1, 1))
        return rprelus(convert(module, "reactnet"))["2"].slope.detach()

    prelu = nn.PReLU(2)
    with torch.no_grad():
        prelu.weight.copy_(torch.tensor([0.3, -0.2]))
    assert torch.equal(start(nn.ReLU()), torch.full((2,), 0.25))
    assert torch.equal(start(nn.Hardswish()), torch.full((2,), 0.25))
    assert torch.equal(start(prelu), torch.tensor([0.3, -0.2]))


def test_schemes_that_keep_activations_and_float_layers_are_left_alone():
    assert not rprelus(convert(UNet(), "threshold"))
    assert set(rprelus(convert(UNet(), "reactnet", settings=["up=float"]))) == {"down2_rprelu", "middle_rprelu"}


def test_the_replacement_computes_the_replaced_function_at_the_start():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3), nn.LeakyReLU(0.3), nn.Conv2d(6, 1, 1)).eval()
    x = torch.rand(1, 3, 20, 24)
    kept = convert(module, "reactnet", settings=["options.replacement=keep"]).eval()
    replaced = convert(module, "reactnet").eval()
    assert rprelus(replaced)
    torch.testing.assert_close(replaced(x), kept(x))


def test_functional_leaky_relu_hands_its_slope_on():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 1, 1)

        def forward(self, x):
            return self.last(F.leaky_relu(self.conv(self.first(x)), negative_slope=0.15))

    torch.testing.assert_close(rprelus(convert(Functional(), "reactnet"))["conv_rprelu"].slope, torch.full((2,), 0.15))


def test_signs_vary_behind_a_replaced_relu():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 1, 1)
    )
    network = convert(module, "reactnet").eval()
    seen = []
    network.get_submodule("4").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.randn(1, 3, 16, 16))
    assert 0.05 < (seen[0] < 0).float().mean() < 0.95


class Between(nn.Module):
    """A function or a module between the binary layer and the last."""

    def __init__(self, activation, **parameters):
        super().__init__()
        self.first, self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 1, 1)
        self.activation = activation if isinstance(activation, nn.Module) else None
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))
        self.function = activation

    def forward(self, x):
        y = self.conv(self.first(x))
        return self.last(self.function(y) if self.activation is not None else self.function(self, y))


SLOPES = torch.tensor([0.3, -0.2])


@pytest.mark.parametrize(
    "prelu",
    [
        lambda m, y: F.prelu(y, m.slopes),
        lambda m, y: F.prelu(input=y, weight=m.slopes),
        lambda m, y: torch.prelu(y, m.slopes),
        lambda m, y: y.prelu(m.slopes),
    ],
)
def test_a_functional_prelu_hands_its_parameter_on(prelu):
    network = convert(Between(prelu, slopes=SLOPES.clone()), "reactnet")
    assert torch.equal(rprelus(network)["conv_rprelu"].slope, SLOPES)
    # No graph reads the old parameter any more, so that it is neither saved nor counted.
    assert "slopes" not in dict(network.named_parameters())
    network(torch.rand(1, 3, 5, 5))


def test_a_parameter_that_is_read_elsewhere_stays():
    network = convert(Between(lambda m, y: F.prelu(y, m.slopes) * m.slopes.sum(), slopes=SLOPES.clone()), "reactnet")
    assert torch.equal(rprelus(network)["conv_rprelu"].slope, SLOPES)
    assert torch.equal(network.slopes, SLOPES)


def test_a_prelu_whose_weight_is_computed_is_left_alone():
    module = Between(lambda m, y: F.prelu(y, m.slopes.abs()), slopes=SLOPES.clone())
    assert not rprelus(convert(module, "reactnet"))


@pytest.mark.parametrize("operator", [o for o in OPERATORS.values() if o.replaceable], ids=lambda o: o.name)
def test_activations_are_replaced_in_every_spelling(operator):
    assert set(rprelus(convert(Between(operator.modules[0]()), "reactnet"))) == {"activation"}
    if operator.name == "prelu":
        return  # Its functions take a weight, see above.
    for function in operator.functions:
        network = convert(Between(lambda _, y, function=function: function(y)), "reactnet")
        assert set(rprelus(network)) == {"conv_rprelu"}, function
    for method in operator.methods:
        network = convert(Between(lambda _, y, method=method: getattr(y, method)()), "reactnet")
        assert set(rprelus(network)) == {"conv_rprelu"}, method


def test_gates_and_subclasses_are_left_alone():
    class Doubled(nn.ReLU):
        def forward(self, x):
            return 2 * super().forward(x)

        is_leaf = True

    for activation in (nn.Sigmoid(), nn.Tanh(), Doubled(), lambda _, y: torch.sigmoid(y), lambda _, y: y.tanh()):
        assert not rprelus(convert(Between(activation), "reactnet"))


def test_an_activation_behind_a_norm_of_another_class_or_spelling_is_found():
    norms = (lambda y: F.group_norm(y, 1), lambda y: F.layer_norm(y, (5,)))
    for norm in norms:
        network = convert(Between(lambda _, y, norm=norm: norm(y).relu()), "reactnet", size=(4, 5))
        assert set(rprelus(network)) == {"conv_rprelu"}


def test_an_activation_in_place_is_replaced_although_its_operand_is_read_instead():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)
            self.second_rprelu = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = self.second(self.first(x))
            y.relu_()
            torch.mul(y, 2, out=y)
            return self.last(self.second_rprelu(y))

    network = convert(InPlace(), "bnn", settings=["options.replacement=rprelu", "second_rprelu=float"]).eval()
    # A layer of the user's that has the new module's name keeps it.
    assert set(rprelus(network)) == {"second_rprelu_"}
    x = torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        y = network.second_rprelu_(network.second(network.first(x)))
        assert torch.equal(network(x), network.last(network.second_rprelu(2 * y)))


def test_a_leaky_relu_without_a_leak_starts_like_a_relu():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.LeakyReLU(0.0), nn.Conv2d(4, 1, 1))
    assert torch.equal(convert(module, "reactnet").get_submodule("2").slope, torch.full((4,), 0.25))
