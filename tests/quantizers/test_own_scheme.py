"""A scheme with a weight method, a scale and an estimator that binmat does not know: this file is all it takes."""

from __future__ import annotations

import pytest
import torch
from example_networks import UNet, randomize
from torch import Tensor, nn
from torch.nn import functional as F

import binmat
from binmat.nn import BinaryConv2d, BinaryLinear
from binmat.nn.binary_layer import BinaryLayer
from binmat.nn.masked_path import MaskedPath
from binmat.quantizers import ESTIMATORS, SCALES, SCHEMES, WEIGHT_METHODS, ActivationBinarizer, Scheme, WeightBinarizer
from binmat.quantizers.estimators import Estimator
from binmat.quantizers.scales import ScaleKind
from binmat.quantizers.weight_methods import WeightMethod
from binmat.reports import stored_bits
from binmat.transforms.lowering.lower import lower


class AboveMedian:
    """w minus its median per output channel; counts how often it is computed."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, weight: Tensor) -> Tensor:
        self.calls += 1
        return weight - weight.flatten(1).median(1).values.view(-1, *[1] * (weight.dim() - 1))


def root_mean_square(weight: Tensor) -> Tensor:
    return weight.square().flatten(1).mean(1).sqrt()


@pytest.fixture
def median(monkeypatch: pytest.MonkeyPatch) -> AboveMedian:
    """Scheme ``mine`` and its parts in the registries, for one test; gives the weight method."""
    above = AboveMedian()
    monkeypatch.setitem(WEIGHT_METHODS, "median", WeightMethod(above))
    monkeypatch.setitem(SCALES, "root mean square", ScaleKind(root_mean_square, stored_per_channel=True))
    monkeypatch.setitem(SCALES, "learnt layer", ScaleKind(root_mean_square, learnable=True))
    monkeypatch.setitem(ESTIMATORS, "half", Estimator(lambda u: None, lambda grad, kept: grad / 2))
    mine = Scheme(
        name="mine",
        weight=WeightBinarizer(method="median", scale_kind="root mean square", estimator="half"),
        activation=ActivationBinarizer(threshold="layer"),
        summary="weights above their median, root mean square per output channel",
    )
    monkeypatch.setitem(SCHEMES, "mine", mine)
    return above


def test_the_layer_computes_it(median: AboveMedian) -> None:
    layer = BinaryConv2d(3, 4, 3, padding=1, scheme=SCHEMES["mine"])
    x = torch.randn(2, 3, 5, 5)
    centre = layer.weight.flatten(1).median(1).values.view(-1, 1, 1, 1)
    alpha = (layer.weight - centre).square().mean((1, 2, 3))
    signs, bits = (torch.where(values >= 0, 1.0, -1.0) for values in (x, layer.weight - centre))
    expected = F.conv2d(signs, bits, padding=1) * alpha.sqrt().view(-1, 1, 1) + layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(layer(x), expected)


def test_it_trains_lowers_and_is_reported(median: AboveMedian) -> None:
    plain = randomize(UNet())
    network = binmat.convert(plain, "mine")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x, target = torch.rand(2, 3, 16, 24), torch.rand(2, 1, 16, 24)
    F.mse_loss(network(x), target).backward()
    layers = [module for module in network.modules() if isinstance(module, BinaryLayer)]
    assert layers
    for layer in layers:
        assert layer.weight.grad is not None and layer.weight.grad.abs().max() > 0
    optimizer.step()

    example = network.eval().example(16, 24)
    frame = torch.rand(1, 3, 16, 24, dtype=torch.float64)
    (lowered,) = lower(network, example, torch.float64)(frame)
    with torch.no_grad():
        torch.testing.assert_close(lowered, network.double()(frame), rtol=0, atol=1e-11)

    floats = {"down2": 16, "middle": 16 + 16, "up": 8 + 8}  # scales, and biases where there are any; not the threshold
    stored = stored_bits(network)
    assert {name: stored[name] for name in floats} == {
        name: network.get_submodule(name).weight.numel() + 32 * count for name, count in floats.items()
    }
    report = binmat.report(plain, network.float(), example=example)
    assert {layer.scheme for layer in report.layers} == {None, "mine"}
    assert "mine" in report.to_markdown()


def test_a_learnt_scale_that_is_not_stored_per_channel_is_a_parameter_and_takes_no_storage(median: AboveMedian) -> None:
    layer = BinaryLinear(6, 4, bias=False, scheme=binmat.get_scheme("mine", scale="learnt layer", threshold="none"))
    assert layer.scale is not None
    torch.testing.assert_close(layer.scale.detach(), root_mean_square(median(layer.weight.detach())))
    assert stored_bits(nn.Sequential(layer)) == {"0": 6 * 4}


def test_the_centred_weight_is_computed_once_per_step(median: AboveMedian) -> None:
    layer = BinaryConv2d(3, 4, 3, padding=1, scheme=SCHEMES["mine"]).eval()
    x, mask = torch.randn(1, 3, 5, 5), torch.ones(1, 1, 5, 5)
    sparse = MaskedPath(layer)
    sparse.execution = "sparse"
    median.calls = 0
    layer(x).sum().backward()
    assert median.calls == 1, "with gradients"
    with torch.no_grad():
        layer(x)
        assert median.calls == 2, "without"
        sparse.eval()(x, mask)
    assert median.calls == 3, "where a mask says so"
    layer.deployed()
    assert median.calls == 4
