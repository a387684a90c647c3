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


@pytest.mark.parametrize("name", ["recu", "irnet", "fda", "reste"])
def test_progress_reaches_every_binary_layer_and_changes_gradients_alone(name: str) -> None:
    net = network(name)
    set_progress(net, 0.75)
    assert net[0].progress == net[1][0].progress == 0.75
    assert not hasattr(net[2], "progress")
    assert not any("progress" in key for key in net.state_dict())

    layer = BinaryConv2d(4, 4, 3, scheme=get_scheme(name))
    x = torch.randn(1, 4, 5, 5, requires_grad=True)
    outputs, grads = [], []
    for fraction in (0, 1):
        set_progress(layer, fraction)
        outputs.append(layer(x))
        grads.append(torch.autograd.grad(outputs[-1].square().sum(), (layer.weight, x)))
    assert torch.equal(*outputs)
    to_weight, to_x = (torch.allclose(*pair) for pair in zip(*grads, strict=True))
    assert not to_weight
    assert to_x == (name == "recu")


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_progress_is_a_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"a fraction in \[0, 1\]"):
        set_progress(network("recu"), fraction)


@pytest.mark.parametrize("name", SCHEMES)
def test_bnn_and_xnors_code_clip_their_latent_weights(name: str) -> None:
    net = network(name)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(-3.0)
        for layer in (net[0], net[1][0]):
            layer.weight[:, 0] = 2.0
    clip_latent_weights(net)
    first, others = (1, -1) if name in ("bnn", "xnor_official") else (2, -3)
    for layer in (net[0], net[1][0]):
        assert (layer.weight[:, 0] == first).all()
        assert (layer.weight[:, 1:] == others).all()
        assert (layer.bias == -3.0).all()
    assert (net[2].weight == -3.0).all()


def test_a_step_with_xnors_code_is_a_step_here_at_another_learning_rate() -> None:
    """Its gradient is 1 - 1/I times the one to the centred weights, and it centres the latent weights afterwards."""
    layer = BinaryConv2d(4, 3, 3, bias=False, dtype=torch.float64, scheme=get_scheme("xnor_official"))
    with torch.no_grad():
        layer.weight.mul_(0.2)
    clip_latent_weights(layer)
    before, x = layer.weight.detach().clone(), torch.randn(2, 4, 6, 6, dtype=torch.float64)
    upstream = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    alpha = before.abs().mean((1, 2, 3), keepdim=True)
    weight = (alpha * before.sign()).requires_grad_()
    (to_weight,) = torch.autograd.grad(nn.functional.conv2d(x.sign(), weight), weight, upstream)
    code = before - 1e-3 * (alpha + 1 / 36) * (1 - 1 / 4) * to_weight
    code = (code - code.mean(1, keepdim=True)).clamp(-1, 1)

    layer(x).backward(upstream)
    torch.optim.SGD(layer.parameters(), lr=1e-3 * (1 - 1 / 4)).step()
    clip_latent_weights(layer)
    torch.testing.assert_close(layer.weight.detach(), code)
    assert not torch.allclose(code, before)


def test_a_weight_clipped_to_the_border_still_moves() -> None:
    layer = BinaryLinear(1, 1, bias=False, scheme=get_scheme("bnn"))
    with torch.no_grad():
        layer.weight.fill_(5.0)
    clip_latent_weights(layer)
    layer(torch.ones(1, 1)).sum().backward()
    assert layer.weight.item() == 1.0
    assert layer.weight.grad is not None and layer.weight.grad.item() == 1.0


def test_weights_that_a_scheme_centres_are_centred_before_they_are_clipped() -> None:
    layer = BinaryLinear(3, 1, bias=False, scheme=get_scheme("xnor_official"))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 1.5, 1.0]]))
    clip_latent_weights(layer)
    assert layer.weight.tolist() == [[0.5, 0, -0.5]]
