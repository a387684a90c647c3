"""BinaryConv2d: its forward pass against an independent formula, construction, accessors, devices and dtypes."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from binmat.errors import PolicyError, RecipeError
from binmat.nn import BinaryConv2d
from binmat.quantizers import SCHEMES, get_scheme


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of a convolution and an input size that it accepts."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    shape: dict[str, Any] = {
        "in_channels": groups * draw(st.integers(1, 12)),
        "out_channels": groups * draw(st.integers(1, 4)),
        "kernel_size": draw(pair),
        "stride": draw(pair),
        "padding": draw(st.tuples(st.integers(0, 3), st.integers(0, 3))),
        "dilation": draw(pair),
        "groups": groups,
        "bias": draw(st.booleans()),
        "size": (draw(st.integers(1, 9)), draw(st.integers(1, 9))),
        "pad_value": draw(st.sampled_from([0, 1])),
        "seed": draw(st.integers(0, 999)),
    }
    for axis in range(2):
        size, padding, dilation, kernel = (shape[key][axis] for key in ("size", "padding", "dilation", "kernel_size"))
        assume(size + 2 * padding >= dilation * (kernel - 1) + 1)
    return shape


def random_layer(shape: dict[str, Any], name: str, **options: Any) -> tuple[BinaryConv2d, Tensor]:
    shape = dict(shape)
    size, seed = shape.pop("size"), shape.pop("seed")
    torch.manual_seed(seed)
    layer = BinaryConv2d(scheme=get_scheme(name, **options), **shape)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return layer, torch.randn(2, layer.in_channels, *size)


def sum_by_hand(bits: np.ndarray, weight: np.ndarray, layer: BinaryConv2d, pad_value: float) -> np.ndarray:
    """The convolution of NumPy arrays, tap by tap."""
    (ph, pw), (sh, sw), (dh, dw) = layer.padding, layer.stride, layer.dilation
    padded = np.pad(bits, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=pad_value)
    kh, kw = weight.shape[2:]
    height = (padded.shape[2] - dh * (kh - 1) - 1) // sh + 1
    width = (padded.shape[3] - dw * (kw - 1) - 1) // sw + 1
    total = np.zeros((len(bits), len(weight), height, width))
    per_group_in, per_group_out = weight.shape[1], len(weight) // layer.groups
    for o, i, y, x in itertools.product(range(len(weight)), range(per_group_in), range(kh), range(kw)):
        channel = padded[:, (o // per_group_out) * per_group_in + i]
        taps = channel[:, y * dh : y * dh + sh * height : sh, x * dw : x * dw + sw * width : sw]
        total[:, o] += weight[o, i, y, x] * taps[:, :height, :width]
    return total


def forward_by_hand(layer: BinaryConv2d, x: Tensor) -> np.ndarray:
    """multiplier * conv(sign(x - threshold) padded, weight) + bias, or with K instead of it, of what is deployed."""
    deployed = layer.deployed()
    signs = np.where(x.numpy() - deployed.threshold.numpy().reshape(-1, 1, 1) >= 0, 1.0, -1.0)
    total = sum_by_hand(signs, deployed.weight.numpy().astype(float), layer, deployed.pad_value)
    total = total * deployed.multiplier.numpy().reshape(-1, 1, 1) + deployed.bias.numpy().reshape(-1, 1, 1)
    if layer.scheme.input_scale_map:
        magnitude = np.abs(x.numpy()).reshape(len(x), layer.groups, -1, *x.shape[2:]).mean(2)
        expanded = np.repeat(magnitude, layer.in_channels // layer.groups, axis=1)
        total *= sum_by_hand(expanded, np.full(layer.weight.shape, 1 / layer.weight[0].numel()), layer, 0.0)
        if layer.bias is not None:
            total += layer.bias.detach().numpy().reshape(-1, 1, 1)
    return total


@pytest.mark.parametrize("name", SCHEMES)
@given(shape=shapes(), scaled=st.booleans(), training=st.booleans())
def test_forward_equals_the_formula(name: str, shape: dict[str, Any], scaled: bool, training: bool) -> None:
    layer, x = random_layer(shape, name, input_scale_map=scaled)
    layer.train(training)
    expected = torch.from_numpy(forward_by_hand(layer, x)).float()
    torch.testing.assert_close(layer(x).detach(), expected, rtol=1e-5, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-4)


@given(shape=shapes())
def test_without_gradients_the_sum_is_an_exact_integer(shape: dict[str, Any]) -> None:
    layer, x = random_layer(shape | {"bias": False}, "reactnet")
    with torch.no_grad():
        deployed = layer.deployed()
        expected = sum_by_hand(
            np.where(x.numpy() - deployed.threshold.numpy().reshape(-1, 1, 1) >= 0, 1.0, -1.0),
            deployed.weight.numpy().astype(float), layer, deployed.pad_value,
        )  # fmt: skip
        scaled = torch.from_numpy(expected).float() * deployed.multiplier.view(-1, 1, 1)
        assert torch.equal(layer(x), scaled)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("pad_value", [0, 1])
def test_what_is_deployed_has_the_documented_shapes_and_types(name: str, pad_value: int) -> None:
    layer = BinaryConv2d(6, 4, 3, groups=2, scheme=get_scheme(name), pad_value=pad_value)
    deployed = layer.deployed()
    weight, tau = deployed.weight, deployed.threshold
    assert weight.dtype == torch.int8 and weight.shape == (4, 3, 3, 3) and set(weight.unique().tolist()) <= {-1, 1}
    for values in (deployed.multiplier, deployed.bias):
        assert values.dtype == torch.float32 and values.shape == (4,)
    assert tau.shape == ((6,) if name in ("reactnet", "bimatting") else (1,))
    assert tau.unique().tolist() == [0.5 if name == "dorefa" else 0.0]
    assert deployed.pad_value == (1 if pad_value else -1 if name == "dorefa" else 0)
    assert not any(value.requires_grad for value in (weight, tau, deployed.multiplier, deployed.bias))
    assert BinaryConv2d.is_leaf is True


@pytest.mark.parametrize("name", SCHEMES)
def test_what_is_deployed_is_read_from_the_parameters_as_they_are(name: str) -> None:
    layer = BinaryConv2d(3, 4, 3, scheme=get_scheme(name))
    before = layer.deployed()
    with torch.no_grad():
        layer.weight.neg_().mul_(2)
        for parameter in (layer.threshold, layer.scale):
            if parameter is not None:
                parameter.add_(1)
    after = layer.deployed()
    assert torch.equal(after.weight, -before.weight)
    # IR-Net's scale is that of standardised weights: twice the weights have the same.
    assert torch.equal(after.multiplier, before.multiplier) == (name in ("bnn", "irnet"))
    assert torch.equal(after.threshold, before.threshold) == (layer.threshold is None)
    own = {parameter.data_ptr() for parameter in layer.parameters()}
    assert own.isdisjoint(value.data_ptr() for value in (after.multiplier, after.bias, after.threshold))


def test_weights_at_zero_become_plus_one() -> None:
    layer = BinaryConv2d(2, 2, 1, scheme=get_scheme("bnn"))
    with torch.no_grad():
        layer.weight.zero_()
    assert layer.deployed().weight.tolist() == [[[[1]], [[1]]]] * 2


@pytest.mark.parametrize("name", SCHEMES)
def test_from_float_takes_the_very_parameters_and_starts_at_the_fit(name: str) -> None:
    conv = nn.Conv2d(6, 8, (3, 5), 2, (1, 2), 2, 2, dtype=torch.float64).eval()
    binary = BinaryConv2d.from_float(conv, get_scheme(name), pad_value=1)
    assert binary.weight is conv.weight and binary.bias is conv.bias
    for field in ("kernel_size", "stride", "padding", "dilation", "groups", "in_channels", "out_channels", "training"):
        assert getattr(binary, field) == getattr(conv, field)
    assert binary.pad_value == 1
    assert {p.dtype for p in binary.parameters()} == {torch.float64}
    assert {p.device.type for p in binary.parameters()} == {"cpu"}
    if name == "recu":
        assert binary.scale is not None
        centred = conv.weight - conv.weight.mean((1, 2, 3), keepdim=True)
        fit = (centred * centred.sign()).mean((1, 2, 3))
        torch.testing.assert_close(binary.scale.detach(), fit.detach())
    assert binary(torch.randn(1, 6, 9, 9, dtype=torch.float64)).shape == conv(torch.zeros(1, 6, 9, 9).double()).shape


def test_from_float_draws_no_random_numbers() -> None:
    conv = nn.Conv2d(3, 3, 3)
    state = torch.get_rng_state()
    BinaryConv2d.from_float(conv, get_scheme("recu"))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", SCHEMES)
def test_state_dict_keeps_the_float_keys_and_adds_the_schemes(name: str) -> None:
    layer = BinaryConv2d(6, 4, 3, scheme=get_scheme(name))
    added = {"recu": {"scale"}, "reactnet": {"threshold"}, "threshold": {"threshold"}, "bimatting": {"threshold"}}
    assert layer.state_dict().keys() == {"weight", "bias"} | added.get(name, set())
    other = BinaryConv2d(6, 4, 3, scheme=get_scheme(name))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(1, 6, 5, 5)
    assert torch.equal(other(x), layer(x))
    twin = copy.deepcopy(layer)
    assert twin.scheme == layer.scheme and twin.weight is not layer.weight
    assert torch.equal(twin(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", SCHEMES)
def test_latent_weights_may_have_any_float_type(name: str, dtype: torch.dtype) -> None:
    layer = BinaryConv2d(5, 4, 3, padding=1, scheme=get_scheme(name), dtype=dtype)
    x = torch.randn(2, 5, 6, 6, dtype=dtype, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    with torch.no_grad():
        exact = layer(x)
    assert y.dtype == exact.dtype == dtype
    assert x.grad is not None and x.grad.isfinite().all()
    torch.testing.assert_close(y, exact, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("gradients", [True, False])
def test_mixed_precision_gives_the_lower_type_as_a_float_convolution_does(name: str, gradients: bool) -> None:
    layer = BinaryConv2d(5, 4, 3, padding=1, scheme=get_scheme(name, input_scale_map=True))
    x = torch.randn(2, 5, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(gradients):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("gradients", [True, False])
def test_shapes_propagate_without_data(name: str, gradients: bool) -> None:
    with FakeTensorMode(), torch.set_grad_enabled(gradients):
        conv = nn.Conv2d(6, 4, 3, 2, 1)
        layer = BinaryConv2d.from_float(conv, get_scheme(name, input_scale_map=True), pad_value=1)
        assert layer(torch.empty(2, 6, 9, 7)).shape == (2, 4, 5, 4)
        deployed = layer.deployed()
        assert deployed.weight.dtype == torch.int8
        assert deployed.threshold.dim() == deployed.multiplier.dim() == 1
    meta = BinaryConv2d(6, 4, 3, scheme=get_scheme(name), device="meta")
    assert meta(torch.empty(1, 6, 5, 5, device="meta")).shape == (1, 4, 3, 3)


@pytest.mark.parametrize("name", SCHEMES)
def test_one_image_without_a_batch(name: str) -> None:
    layer = BinaryConv2d(3, 4, 3, padding=1, scheme=get_scheme(name, input_scale_map=True))
    x = torch.randn(3, 5, 6)
    torch.testing.assert_close(layer(x), layer(x[None])[0])


def test_same_padding_where_it_is_symmetric() -> None:
    x = torch.randn(1, 2, 7, 6)
    for kernel, dilation, expected in ((3, 1, (1, 1)), ((5, 1), 1, (2, 0)), ((2, 3), 2, (1, 2))):
        layer = BinaryConv2d(2, 2, kernel, padding="same", dilation=dilation, scheme=get_scheme("bnn"))
        assert layer.padding == expected
        assert layer(x).shape == x.shape
        again = BinaryConv2d.from_float(layer, get_scheme("bnn"))
        assert again.padding == expected
    float_layer = nn.Conv2d(2, 2, 3, padding="same")
    assert BinaryConv2d.from_float(float_layer, get_scheme("bnn")).padding == (1, 1)
    assert BinaryConv2d(2, 2, 3, padding="valid", scheme=get_scheme("bnn")).padding == (0, 0)


def test_what_a_binary_convolution_cannot_do_is_refused() -> None:
    scheme = get_scheme("bnn")
    with pytest.raises(PolicyError, match="cannot pad by 'reflect'"):
        BinaryConv2d.from_float(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), scheme)
    with pytest.raises(PolicyError, match="of a 2x2 binary convolution is not symmetric"):
        BinaryConv2d(2, 2, 2, padding="same", scheme=scheme)
    with pytest.raises(PolicyError, match="padding cannot be 'full'"):
        BinaryConv2d(2, 2, 2, padding="full", scheme=scheme)
    with pytest.raises(RecipeError, match="pad_value cannot be -1"):
        BinaryConv2d(2, 2, 3, scheme=scheme, pad_value=-1)


def test_repr_shows_scheme_and_padding() -> None:
    text = repr(BinaryConv2d(3, 4, 3, padding=1, scheme=get_scheme("recu"), pad_value=1))
    assert text.startswith("BinaryConv2d(3, 4, kernel_size=(3, 3)") and "scheme=recu, pad_value=1" in text


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("pad_value", [0, 1])
def test_training_keeps_one_byte_per_activation_beside_the_convolutions_input(name: str, pad_value: int) -> None:
    layer = BinaryConv2d(4, 4, 3, padding=1, scheme=get_scheme(name), pad_value=pad_value)
    x = torch.randn(2, 4, 33, 35, requires_grad=True)
    own = {parameter.untyped_storage().data_ptr() for parameter in layer.parameters()}
    kept: dict[int, Tensor] = {}

    def record(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        y = layer(x)
    assert y.requires_grad
    padded = 2 * 4 * (33 + 2 * pad_value) * (35 + 2 * pad_value)
    large = [tensor for tensor in kept.values() if tensor.numel() >= x.numel()]
    assert sorted(tensor.untyped_storage().nbytes() for tensor in large) == [x.numel(), 4 * padded]
    small = sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) - x.numel() - 4 * padded
    assert small <= 40 * layer.weight.numel()
