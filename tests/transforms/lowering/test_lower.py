from __future__ import annotations

import pytest
import torch
from example_networks import ResNet, UNet, randomize
from golden_fill import noise_image
from hypothesis import given, settings
from hypothesis import strategies as st
from official_checkpoints import filled
from torch import nn

from binmat.errors import LoweringError
from binmat.model_defs.network import Example
from binmat.model_defs.rvm import RVM
from binmat.nn import BinaryConv2d, BinaryLinear
from binmat.quantizers import SCHEMES, get_scheme
from binmat.transforms.convert import convert
from binmat.transforms.lowering.lower import lower
from binmat.transforms.trace import trace


def operators(lowered):
    return [node.target for node in lowered.module.graph.nodes if node.op == "call_function"]


def assert_lowers_exactly(network, *size):
    network = trace(network).eval()
    example = network.example(*size)
    lowered = lower(network, example, torch.float64)
    inputs = [torch.randn(v.shape, dtype=torch.float64) for v in example.inputs.values() if isinstance(v, torch.Tensor)]
    numbers = [v for v in example.inputs.values() if not isinstance(v, torch.Tensor)]
    with torch.no_grad():
        expected = network.double().run(example.mode, *inputs, *numbers)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for got, want in zip(lowered(*inputs), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-11)
    return lowered


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("build", [UNet, ResNet])
def test_every_scheme_lowers_exactly_outside_the_registry(build, scheme):
    for padding in ("zero", "one"):
        network = convert(randomize(build()), scheme, settings=[f"padding={padding}"])
        lowered = assert_lowers_exactly(network, 22, 27)
        assert torch.ops.aten.native_batch_norm.default not in operators(lowered)


@pytest.mark.parametrize("scheme", ["dorefa", "reactnet"])
@pytest.mark.parametrize("size", [(64, 96), (65, 95), (128, 192, 0.5)])
def test_rvm_lowers_exactly(scheme, size):
    network = filled(RVM())
    lowered = assert_lowers_exactly(convert(network, scheme), *size)
    assert lowered.inputs == ("src", "r1", "r2", "r3", "r4")
    assert lowered.outputs == ("fgr", "pha", "r1", "r2", "r3", "r4")


@pytest.mark.parametrize("scheme", ["xnor", "dorefa"])
def test_the_input_scale_map_lowers_exactly(scheme):
    assert_lowers_exactly(convert(randomize(ResNet()), scheme, settings=["options.input_scale_map=true"]), 21, 18)
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.Conv2d(6, 1, 1))
    assert_lowers_exactly(convert(module, scheme, settings=["options.input_scale_map=true"]), 9, 11)


@settings(max_examples=25)
@given(
    channels=st.integers(1, 9),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    depthwise=st.booleans(),
    scheme=st.sampled_from(sorted(SCHEMES)),
    pad=st.sampled_from(["zero", "one"]),
    bias=st.booleans(),
)
def test_any_geometry_lowers_exactly(channels, kernel, stride, padding, dilation, depthwise, scheme, pad, bias):
    groups = channels if depthwise else 1
    conv = nn.Conv2d(channels, 2 * channels, kernel, stride, padding, dilation, groups, bias)
    module = nn.Sequential(
        nn.Conv2d(3, channels, 1), conv, nn.BatchNorm2d(2 * channels), nn.ReLU(), nn.Conv2d(2 * channels, 1, 1)
    )
    assert_lowers_exactly(convert(randomize(module), scheme, settings=[f"padding={pad}"]), 13, 17)


class InPlace(nn.Module):
    """Modules, functions and methods that work in place, on views too, read by others and by nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.first(x))
        z = self.second(y)
        y.add_(z)
        y[:, :3].mul_(-2)
        nn.functional.hardtanh_(z)
        return self.last(y + z).sigmoid_()


@pytest.mark.parametrize("scheme", [None, "reactnet"])
def test_operators_in_place_lower_exactly(scheme):
    network = InPlace() if scheme is None else convert(InPlace(), scheme)
    lowered = assert_lowers_exactly(network, 7, 10)
    assert not any(target._schema.is_mutable for target in operators(lowered) if hasattr(target, "_schema"))
    # A result that nobody reads has been written into its operand all the same.
    assert torch.ops.aten.slice_scatter.default in operators(lowered)


def test_batch_norm_and_shifts_vanish_into_the_convolution():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 1, 1)
    )
    lowered = assert_lowers_exactly(convert(randomize(module), "reactnet"), 8, 8)
    names = [str(target) for target in operators(lowered)]
    assert names == [
        "aten.convolution.default",
        "binmat.binarize.default",
        "binmat.binary_conv2d.default",
        "aten._prelu_kernel.default",
        "aten.add.Tensor",
        "aten.convolution.default",
    ]


def test_a_convolution_that_something_else_reads_keeps_its_values():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return self.norm(y) + y

    lowered = assert_lowers_exactly(randomize(Twice()), 5, 6)
    assert torch.ops.aten.mul.Tensor in operators(lowered)


def test_nodes_carry_the_names_of_their_layers_also_inside_recurrences():
    network = convert(RVM(), "bnn")
    lowered = lower(network, network.example(32, 48))
    layers = {node.meta.get("layer") for node in lowered.module.graph.nodes if node.op == "call_function"}
    assert None not in layers
    assert {"backbone.features.4.block.2.fc1", "decoder.decode4.gru.ih.0", "project_mat.conv"} <= layers


def test_lowering_does_not_touch_the_network():
    network = convert(RVM(), "reactnet").train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    lower(network, network.example(32, 32))
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_a_size_that_breaks_inside_is_a_lowering_error():
    with pytest.raises(LoweringError, match="cannot be lowered at 1x1"):
        network = trace(nn.Sequential(nn.Conv2d(3, 4, 5)))
        lower(network, network.example(1, 1))


def test_float32_agrees_with_the_network_on_a_picture():
    network = filled(RVM())
    src = torch.from_numpy(noise_image("clip1", (1, 3, 64, 96)))
    states = [v for name, v in network.example(64, 96).inputs.items() if name != "src"]
    lowered = lower(network, network.example(64, 96))
    with torch.no_grad():
        expected = network(src)
    for got, want in zip(lowered(src, *states), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", [(2, 8), (2, 5, 8), (2, 3, 5, 8), (8,)])
def test_binary_linear_layers_lower_exactly_at_any_rank(scheme, shape):
    torch.manual_seed(0)
    layer = BinaryLinear(8, 6, scheme=get_scheme(scheme)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter) / 3)
    network, x = trace(nn.Sequential(layer)).eval(), torch.randn(shape, dtype=torch.float64)
    lowered = lower(network, Example("forward", {"input": x}, ("y",)), torch.float64)
    assert torch.ops.binmat.binary_conv2d.default in operators(lowered)
    with torch.no_grad():
        torch.testing.assert_close(lowered(x)[0], network(x), rtol=0, atol=1e-12)


def test_a_binary_convolution_of_one_image_without_a_batch_lowers_exactly():
    network = trace(nn.Sequential(BinaryConv2d(8, 6, 3, 2, 1, scheme=get_scheme("reactnet")).double())).eval()
    x = torch.randn(8, 5, 7, dtype=torch.float64)
    lowered = lower(network, Example("forward", {"input": x}, ("y",)), torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(lowered(x)[0], network(x), rtol=0, atol=1e-12)


def test_code_that_reads_a_binary_layers_weight_gets_the_latent_weight():
    class Standardized(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = BinaryLinear(8, 6, scheme=get_scheme("bnn"))

        def forward(self, x):
            weight = self.layer.weight
            return self.layer(x) + nn.functional.linear(x, weight - weight.mean(), self.layer.bias)

    network, x = trace(Standardized().double()).eval(), torch.randn(3, 8, dtype=torch.float64)
    lowered = lower(network, Example("forward", {"x": x}, ("y",)), torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(lowered(x)[0], network(x), rtol=0, atol=1e-12)


def test_pools_of_permuted_tensors_leave_no_strides_behind():
    example = Example("forward", {"input": torch.randn(1, 4, 6, 5)}, ("y",))
    network = trace(nn.Sequential(Permuted(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 2, 1)), example=example).eval()
    assert torch.ops.aten.as_strided.default not in operators(lower(network, example))


class Permuted(nn.Module):
    def forward(self, x):
        return x.permute(0, 3, 1, 2)
