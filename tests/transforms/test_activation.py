from __future__ import annotations

import pytest
import torch
from example_networks import ResNet, UNet
from torch import nn
from torch.nn import functional as F

from binmat.model_defs.network import Example
from binmat.model_defs.rvm import RVM
from binmat.nn import RPReLU
from binmat.nn.masked_path import MaskedPath
from binmat.nn.operators import OPERATORS
from binmat.transforms.convert import convert
from binmat.transforms.nonnegative_inputs import nonnegative_inputs


def rprelus(network):
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, RPReLU)}


def test_functions_methods_and_modules_behind_binary_layers_become_rprelu():
    found = rprelus(convert(UNet(), "reactnet"))
    assert set(found) == {"down2_rprelu", "middle_rprelu", "up_rprelu"}
    assert found["down2_rprelu"].slope.shape == (16,)


def test_a_module_that_serves_twice_is_replaced_apart():
    network = convert(ResNet(), "reactnet")
    found = rprelus(network)
    # The second call, behind the addition, is the only one left and takes the module's name.
    assert {f"stage{i}.{name}" for i in (1, 2) for name in ("conv1_rprelu", "relu")} | {"hidden_rprelu"} == set(found)


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


@pytest.mark.parametrize("shape", [(5, 3), (2, 5, 3), (2, 4, 5, 3)])
def test_behind_a_linear_layer_the_channels_are_the_last_dimension(shape):
    module = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 5), nn.LeakyReLU(0.1), nn.Linear(5, 2)).eval()
    network = convert(module, "reactnet").eval()
    made = network.get_submodule("2")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
        u = network.get_submodule("1")(network.get_submodule("0")(x := torch.randn(shape))) - made.gamma
        y = torch.where(u >= 0, u, made.slope * u) + made.zeta
        torch.testing.assert_close(network(x), network.get_submodule("3")(y))


def test_a_prelu_along_another_dimension_than_the_channels_hands_its_mean_slope_on():
    module = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 5), nn.PReLU(4), nn.Linear(5, 2))
    with torch.no_grad():
        module[2].weight.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    network = convert(module, "reactnet", example=Example("forward", {"input": torch.rand(1, 4, 3)}, ()))
    torch.testing.assert_close(network.get_submodule("2").slope, torch.full((5,), 0.25))
    assert network(torch.randn(2, 4, 3)).shape == (2, 4, 2)


def test_the_replacement_takes_an_image_without_a_batch():
    network = convert(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1)), "reactnet")
    x = torch.rand(3, 5, 7)
    torch.testing.assert_close(network(x), network(x[None])[0])


class Residual(nn.Module):
    """join(norm(conv(x)), x) between a first and a last layer; the channels are 8."""

    def __init__(self, join):
        super().__init__()
        self.first, self.conv, self.project = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.norm, self.relu, self.last, self.join = nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1), join

    def forward(self, x):
        x = self.first(x)
        return self.last(self.join(self, self.norm(self.conv(x)), x))


@pytest.mark.parametrize("relu", [lambda _, y: F.relu(y), lambda m, y: m.relu(y), lambda _, y: y.relu()])
@pytest.mark.parametrize(
    "total",
    [
        lambda m, y, x: y + x,
        lambda m, y, x: torch.add(x, y),
        lambda m, y, x: y + x + x,
        lambda m, y, x: m.project(x) + y,
    ],
)
def test_behind_a_residual_addition_the_activation_is_replaced_once(total, relu):
    network = convert(Residual(lambda m, y, x: relu(m, total(m, y, x))), "reactnet").eval()
    (made,) = rprelus(network).values()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
        x = torch.rand(1, 3, 6, 5)
        inner = network.first(x)
        expected = network.last(made(total(network, network.norm(network.conv(inner)), inner)))
        torch.testing.assert_close(network(x), expected)


def test_an_activation_before_the_addition_keeps_its_place():
    network = convert(Residual(lambda m, y, x: m.relu(y) + x), "reactnet").eval()
    x = torch.rand(1, 3, 6, 5)
    inner = network.first(x)
    expected = network.last(network.relu(network.norm(network.conv(inner))) + inner)
    assert set(rprelus(network)) == {"relu"}
    torch.testing.assert_close(network(x), expected)


def test_an_activation_behind_a_sum_is_kept_for_any_of_its_layers():
    module = Residual(lambda m, y, x: m.relu(m.project(x) + y))
    assert not rprelus(convert(module, "reactnet", settings=['keep_activations=["project"]']))
    assert rprelus(convert(module, "reactnet", settings=["project=float"]))


def test_a_recipes_shortcut_joins_the_sum_before_the_replaced_activation():
    network = convert(Residual(lambda m, y, x: m.relu(y + m.project(x))), "reactnet", settings=["shortcut=same"])
    network = network.eval()
    x = torch.rand(1, 3, 6, 5)
    inner = network.first(x)
    expected = network.last(network.relu(network.norm(network.conv(inner)) + inner + network.project(inner) + inner))
    torch.testing.assert_close(network(x), expected)


def test_a_module_that_is_called_behind_two_sums_is_replaced_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
            self.relu, self.last = nn.ReLU(), nn.Conv2d(8, 1, 1)

        def forward(self, x):
            x = self.first(x)
            x = self.relu(self.one(x) + x)
            return self.last(self.relu(self.two(x) + x))

    assert set(rprelus(convert(Twice(), "reactnet"))) == {"one_rprelu", "relu"}


class Twice(nn.Module):
    """One convolution, activated by two functions."""

    def __init__(self, first, second):
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)
        self.first, self.second = first, second

    def forward(self, x):
        return self.head(self.second(self.conv(self.first(self.conv(self.stem(x))))))


@pytest.mark.parametrize(
    ("first", "second", "slopes"),
    [
        (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), {"first": 0.1, "second": 0.2}),
        (F.relu, nn.LeakyReLU(0.2), {"conv_rprelu": 0.25, "second": 0.2}),
        (lambda x: F.leaky_relu(x, 0.1), lambda x: F.leaky_relu(x, 0.2), {"conv_rprelu": 0.1, "conv_rprelu_": 0.2}),
        (F.relu, F.relu, {"conv_rprelu": 0.25}),
    ],
)
def test_two_functions_behind_one_layer_have_an_rprelu_each(first, second, slopes):
    module = Twice(first, second).eval()
    network, x = convert(module, "reactnet", size=(8, 8)), torch.randn(1, 3, 8, 8)
    assert {name: layer.slope[0].item() for name, layer in rprelus(network).items()} == pytest.approx(slopes)
    if 0.1 in slopes.values():
        kept = convert(module, "reactnet", settings=["options.replacement=keep"], size=(8, 8))
        torch.testing.assert_close(network(x), kept(x))


class Blocks(nn.Module):
    """A stem, a block with a shortcut and a gate, and a head; every convolution but the first and last is binary."""

    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.gate, self.joined, self.head = nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 1, 1)
        self.relu = nn.ReLU()

    def forward(self, image):
        x = F.max_pool2d(F.relu(self.stem(image)), 2)
        y = self.relu(self.one(x))
        y = self.relu(self.two(y) + x)
        z = F.leaky_relu(y) * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1)))
        return self.head(F.relu(self.joined(torch.cat([z, F.silu(x)], 1))))


def blocks_by_hand(net, image, act):
    x = F.max_pool2d(act(net.stem(image)), 2)
    y = act(net.one(x))
    y = act(net.two(y) + x)
    z = act(y) * torch.sigmoid(net.gate(F.adaptive_avg_pool2d(y, 1)))
    return net.head(F.relu(net.joined(torch.cat([z, act(x)], 1))))


@pytest.mark.parametrize(("kind", "act"), [("hardtanh", F.hardtanh), ("identity", lambda x: x)])
def test_every_activation_before_a_sign_is_replaced_and_no_other(kind, act):
    module = Blocks().eval()
    network, x = convert(module, "bnn", settings=[f"options.replacement={kind}"], size=(8, 8)), torch.randn(1, 3, 8, 8)
    assert nonnegative_inputs(network, "forward") == ()
    assert nonnegative_inputs(convert(module, "bnn", size=(8, 8)), "forward") == ("one", "two", "gate")
    torch.testing.assert_close(network(x), blocks_by_hand(network, x, act))
    # As in XNOR-Net and ReCU, what the float head reads keeps its ReLU.
    targets = [node.target for node in network.programs["forward"].graph.nodes]
    assert targets.count(F.relu) == 1 and targets[-3] is F.relu


def test_an_activation_stays_if_the_layer_behind_it_does_not_ask_for_another():
    settings = ["options.replacement=hardtanh", "two=threshold"]
    network = convert(Blocks(), "bnn", settings=settings, size=(8, 8))
    replaced = {name for name, layer in network.named_modules() if isinstance(layer, nn.Hardtanh)}
    # Only layer two reads the ReLU behind layer one.
    assert replaced == {"one_hardtanh", "gate_hardtanh", "joined_hardtanh", "joined_hardtanh_"}
    assert any(node.target == "relu" for node in network.programs["forward"].graph.nodes)
    assert nonnegative_inputs(network, "forward") == ("two",)


@pytest.mark.parametrize("kept", ["left", "right"])
def test_an_activation_before_two_layers_stays_if_they_differ(kept):
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1)
            self.left, self.right = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, image):
            x = F.relu(self.stem(image))
            return self.head(self.left(x) + self.right(x))

    network = convert(Fork(), "bnn", settings=["options.replacement=identity", f"{kept}=threshold"], size=(8, 8))
    assert not any(isinstance(layer, nn.Identity) for layer in network.modules())


def test_activations_before_a_kept_layer_stay():
    settings = ["options.replacement=identity", 'keep_activations=["two"]']
    network = convert(Blocks(), "bnn", settings=settings, size=(8, 8))
    assert nonnegative_inputs(network, "forward") == ("two",)


def test_a_masked_paths_activations_are_replaced_in_it():
    settings = ["decoder=sab", "options.replacement=hardtanh"]
    network = convert(RVM(), "recu", settings=settings)
    paths = {name: path for name, path in network.named_modules() if isinstance(path, MaskedPath)}
    inside = {name: [type(layer).__name__ for layer in path.children()] for name, path in paths.items()}
    assert inside["decoder.decode1.conv"] == ["BinaryConv2d", "BatchNorm2d", "Hardtanh"]
    # Before the float convolution there is no sign.
    assert inside["decoder.decode0.conv"] == ["BinaryConv2d", "BatchNorm2d", "ReLU", "Conv2d", "BatchNorm2d", "ReLU"]


def test_an_activation_behind_another_is_replaced_too():
    """As in LiteMatting's pyramid: relu(relu(a) + relu(b)) before a sign is never negative by its inner ones either."""

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.middle, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)

        def forward(self, image):
            x = self.stem(image)
            return self.head(self.middle(F.relu(F.relu(x) + F.interpolate(F.relu6(x - 1), size=x.shape[2:]))))

    network = convert(Nested(), "bnn", settings=["options.replacement=identity"], size=(8, 8))
    assert nonnegative_inputs(network, "forward") == ()
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(network(x), network.head(network.middle(2 * network.stem(x) - 1)))
