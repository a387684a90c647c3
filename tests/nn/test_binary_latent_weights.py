"""Progress and clipping over a whole network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binmat.nn import BinaryConv2d, BinaryLinear, clip_latent_weights, set_progress
from binmat.quantizers import SCHEMES, get_scheme


def network(name: str) -> nn.Sequential:
    scheme = get_scheme(name)
    layers = BinaryConv2d(2, 2, 1, scheme=scheme), nn.Sequential(BinaryLinear(3, 3, scheme=scheme)), nn.Linear(3, 3)
    return nn.Sequential(*layers)


def test_progress_reaches_every_binary_layer_and_changes_recus_gradient_alone() -> None:
    net = network("recu")
    set_progress(net, 0.75)
    assert net[0].progress == net[1][0].progress == 0.75
    assert not hasattr(net[2], "progress")
    assert not any("progress" in key for key in net.state_dict())

    layer = BinaryConv2d(4, 4, 3, scheme=get_scheme("recu"))
    x = torch.randn(1, 4, 5, 5)
    outputs, grads = [], []
    for fraction in (0, 1):
        set_progress(layer, fraction)
        outputs.append(layer(x))
        grads.append(torch.autograd.grad(outputs[-1].square().sum(), layer.weight)[0])
    assert torch.equal(*outputs)
    assert not torch.allclose(*grads)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_progress_is_a_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"a fraction in \[0, 1\]"):
        set_progress(network("recu"), fraction)


@pytest.mark.parametrize("name", SCHEMES)
def test_only_bnn_clips_its_latent_weights(name: str) -> None:
    net = network(name)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(-3.0)
    clip_latent_weights(net)
    expected = -1.0 if name == "bnn" else -3.0
    for layer in (net[0], net[1][0]):
        assert (layer.weight == expected).all()
        assert (layer.bias == -3.0).all()
    assert (net[2].weight == -3.0).all()


def test_a_weight_clipped_to_the_border_still_moves() -> None:
    layer = BinaryLinear(1, 1, bias=False, scheme=get_scheme("bnn"))
    with torch.no_grad():
        layer.weight.fill_(5.0)
    clip_latent_weights(layer)
    layer(torch.ones(1, 1)).sum().backward()
    assert layer.weight.item() == 1.0
    assert layer.weight.grad is not None and layer.weight.grad.item() == 1.0
