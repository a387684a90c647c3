"""Each scheme's backward pass against its documented formula, written out here by hand."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.nn import BinaryConv2d, BinaryLinear, RPReLU, clip_latent_weights, set_progress
from binmat.quantizers import SCHEMES, get_scheme

PROGRESS = 0.3


class Case(NamedTuple):
    layer: BinaryConv2d
    x: Tensor
    upstream: Tensor


def pm1(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def per_output(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def inside(x: Tensor) -> Tensor:
    return (x.abs() <= 1).to(x.dtype)


def polynomial(u: Tensor) -> Tensor:
    return torch.round(127 * (2 - (2 * u).abs()).clamp(min=0)) / 127


def make(name: str, pad_value: int, **options: object) -> Case:
    layer = BinaryConv2d(
        6, 8, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1), groups=2, bias=True, dtype=torch.float64,
        scheme=get_scheme(name, **options), pad_value=pad_value,
    )  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(torch.randn_like(layer.weight) * 0.8 + 0.1)
        if layer.threshold is not None:
            layer.threshold.copy_(torch.randn_like(layer.threshold) * 0.3)
        if layer.scale is not None:
            layer.scale.copy_(torch.rand_like(layer.scale) + 0.2)
    set_progress(layer, PROGRESS)
    x = torch.randn(2, 6, 7, 5, dtype=torch.float64).mul_(1.2).requires_grad_()
    return Case(layer, x, torch.randn_like(layer(x)))


def gradients_of_the_convolution(case: Case, bits: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """g = dL/da and G = dL/dW for the binarized activations and weights."""
    layer = case.layer
    bits, weight = bits.detach().requires_grad_(), weight.detach().requires_grad_()
    padded = F.pad(bits, (1, 1, 2, 2), value=layer.pad_value)
    y = F.conv2d(padded, weight, None, layer.stride, 0, layer.dilation, layer.groups)
    return torch.autograd.grad(y, (bits, weight), case.upstream)


def centring(grad: Tensor) -> Tensor:
    return grad - grad.mean((1, 2, 3), keepdim=True)


def bnn(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    g, G = gradients_of_the_convolution(case, pm1(x), pm1(w))
    return {"x": g * inside(x), "weight": G * inside(w)}


def xnor(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    n = w[0].numel()
    alpha = per_output(w.abs().sum((1, 2, 3)) / n)
    g, G = gradients_of_the_convolution(case, pm1(x), alpha * pm1(w))
    return {"x": g * inside(x), "weight": G * (1 / n + alpha * inside(w))}


def xnor_official(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    n, inputs = w[0].numel(), w.shape[1]
    v = w - w.sum(1, keepdim=True) / inputs
    alpha = per_output(v.abs().sum((1, 2, 3)) / n)
    g, G = gradients_of_the_convolution(case, pm1(x), alpha * pm1(v))
    to_v = G * (1 / n + alpha * inside(v))
    return {"x": g * inside(x), "weight": to_v - to_v.sum(1, keepdim=True) / inputs}


def birealnet(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    alpha = w.abs().mean((1, 2, 3), keepdim=True)
    g, G = gradients_of_the_convolution(case, pm1(x), alpha * pm1(w))
    return {"x": g * polynomial(x), "weight": alpha * G * inside(w)}


def stepped(derivative: Tensor, largest: float, steps: int) -> Tensor:
    """As an estimator keeps it: one byte per element."""
    return torch.round(derivative * (steps / largest)) * (largest / steps)


def ede(u: Tensor) -> Tensor:
    t = 10 ** (-1 + 2 * PROGRESS)
    k = max(1 / t, 1)
    return stepped(k * t / torch.cosh(t * u) ** 2, k * t, 254)


def irnet(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    c = w - w.mean((1, 2, 3), keepdim=True)
    n = c[0].numel()
    sigma = (c.square().sum((1, 2, 3), keepdim=True) / (n - 1)).sqrt()
    v = c / sigma
    shift = torch.tensor([round(math.log2(row.abs().mean())) for row in v])
    scale = per_output(torch.tensor([2.0**s for s in shift.tolist()], dtype=w.dtype))
    g, G = gradients_of_the_convolution(case, pm1(x), scale * pm1(c))
    e = scale * G * ede(v)
    to_w = (centring(e) - v * (v * e).sum((1, 2, 3), keepdim=True) / (n - 1)) / sigma
    return {"x": g * ede(x), "weight": to_w}


def fourier(u: Tensor) -> Tensor:
    terms = [math.cos((2 * i + 1) * 0.1 * value) for value in u.flatten().tolist() for i in range(12)]
    series = torch.tensor(terms, dtype=u.dtype).view(-1, 12).sum(1).view_as(u) * 0.4 / math.pi
    return stepped(series, 0.4 / math.pi * 12, 127) * inside(u)


def fda(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    alpha = w.abs().mean((1, 2, 3), keepdim=True)
    g, G = gradients_of_the_convolution(case, pm1(x), alpha * pm1(w))
    return {"x": g * fourier(x), "weight": alpha * G * fourier(w)}


def power(u: Tensor) -> Tensor:
    o = 1 + (1 - math.cos(PROGRESS * math.pi / 2)) * 2
    near, far = u.abs() <= 0.1, u.abs() > 1.5
    middle = torch.exp((1 / o - 1) * u.abs().log()) / o
    steep = 0.1 ** (1 / o) / 0.1
    return stepped(torch.where(far, 0.0, torch.where(near, steep, middle)), steep, 254)


def reste(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    g, G = gradients_of_the_convolution(case, pm1(x), w.abs().mean() * pm1(w))
    return {"x": g * power(x), "weight": w.abs().mean() * G * power(w) + pm1(w) / w.numel() * (pm1(w) * G).sum()}


def dorefa(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    g, G = gradients_of_the_convolution(case, (pm1(x - 0.5) + 1) / 2, w.abs().mean() * pm1(w))
    return {"x": g * ((x >= 0) & (x <= 1)), "weight": G}


def dorefa_signed(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    g, G = gradients_of_the_convolution(case, pm1(x), w.abs().mean((1, 2, 3), keepdim=True) * pm1(w))
    return {"x": g * inside(x), "weight": G * inside(w)}


def recu(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    assert case.layer.scale is not None
    alpha = per_output(case.layer.scale.detach())
    v = w - w.mean((1, 2, 3), keepdim=True)
    n = v[0].numel()
    s = (v.square().sum((1, 2, 3), keepdim=True) / (n - 1) + 1e-5).sqrt()
    w1 = 2 * math.sqrt(2) * v / s
    tau = 0.85 + 0.14 * (math.exp(PROGRESS) - 1) / (math.e - 1)
    bound = -w1.abs().mean() * math.log(2 - 2 * tau)
    g, G = gradients_of_the_convolution(case, pm1(x), alpha * pm1(v))
    to_w1 = alpha * G * (w1.abs() <= bound)
    to_w = 2 * math.sqrt(2) * (centring(to_w1) / s - v * (to_w1 * v).sum((1, 2, 3), keepdim=True) / ((n - 1) * s**3))
    centre = x.mean((1, 2, 3), keepdim=True)
    deviation = ((x - centre).square().sum((1, 2, 3), keepdim=True) / (x[0].numel() - 1) + 1e-5).sqrt()
    to_x = g * polynomial(x / deviation) / deviation if case.layer.training else g * polynomial(x)
    return {"x": to_x, "weight": to_w, "scale": (G * pm1(v)).sum((1, 2, 3))}


def reactnet(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    assert case.layer.threshold is not None
    u = x - case.layer.threshold.detach().view(1, -1, 1, 1)
    g, G = gradients_of_the_convolution(case, pm1(u), w.abs().mean((1, 2, 3), keepdim=True) * pm1(w))
    to_x = g * polynomial(u)
    return {"x": to_x, "weight": G * inside(w), "threshold": -to_x.sum((0, 2, 3))}


def threshold(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    assert case.layer.threshold is not None
    u = x - case.layer.threshold.detach()
    g, G = gradients_of_the_convolution(case, pm1(u), w.abs().mean((1, 2, 3), keepdim=True) * pm1(w))
    to_x = g * inside(u)
    return {"x": to_x, "weight": G * inside(w), "threshold": -to_x.sum().view(1)}


def bimatting(case: Case) -> dict[str, Tensor]:
    x, w = case.x.detach(), case.layer.weight.detach()
    assert case.layer.threshold is not None
    v = w - w.mean((1, 2, 3), keepdim=True)
    u = x - case.layer.threshold.detach().view(1, -1, 1, 1)
    g, G = gradients_of_the_convolution(case, pm1(u), v.abs().mean((1, 2, 3), keepdim=True) * pm1(v))
    to_x = g * inside(u)
    return {"x": to_x, "weight": centring(G * inside(v)), "threshold": -to_x.sum((0, 2, 3))}


FORMULAS = {
    "bnn": bnn,
    "xnor": xnor,
    "xnor_official": xnor_official,
    "birealnet": birealnet,
    "irnet": irnet,
    "fda": fda,
    "reste": reste,
    "dorefa": dorefa,
    "dorefa_signed": dorefa_signed,
    "recu": recu,
    "reactnet": reactnet,
    "threshold": threshold,
    "bimatting": bimatting,
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("pad_value", [0, 1])
@pytest.mark.parametrize("name", SCHEMES)
def test_backward_equals_the_documented_formula(name: str, pad_value: int, training: bool) -> None:
    case = make(name, pad_value)
    case.layer.train(training)
    case.layer(case.x).backward(case.upstream)

    expected = FORMULAS[name](case) | {"bias": case.upstream.sum((0, 2, 3))}
    found = {"x": case.x.grad} | {key: parameter.grad for key, parameter in case.layer.named_parameters()}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] is not None and value.abs().max() > 0
        torch.testing.assert_close(found[key], value, msg=lambda text, key=key: f"{name}, {key}: {text}")


def test_the_estimator_is_a_setting_of_every_scheme() -> None:
    for name in SCHEMES:
        clip, smooth = (make(name, 0, estimator=estimator) for estimator in ("clip", "polynomial"))
        smooth.layer.load_state_dict(clip.layer.state_dict())
        grads = [torch.autograd.grad(layer(clip.x), clip.x, clip.upstream)[0] for layer in (clip.layer, smooth.layer)]
        assert not torch.allclose(*grads)
        assert torch.equal(clip.layer(clip.x), smooth.layer(clip.x))


@pytest.mark.parametrize("name", ["xnor", "bnn"])
def test_the_input_scale_map_is_a_constant_in_the_backward_pass(name: str) -> None:
    case = make(name, 0, input_scale_map=True)
    case.layer(case.x).backward(case.upstream)
    with torch.no_grad():
        k = case.layer.input_scale(case.x, case.layer.product)
    expected = FORMULAS[name](case._replace(upstream=case.upstream * k))
    torch.testing.assert_close(case.x.grad, expected["x"])
    torch.testing.assert_close(case.layer.weight.grad, expected["weight"])


def test_linear_has_the_same_gradients() -> None:
    layer = BinaryLinear(5, 4, scheme=get_scheme("reactnet"), dtype=torch.float64)
    x = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 2, 4, dtype=torch.float64)
    layer(x).backward(upstream)
    w = layer.weight.detach()
    g = upstream @ (w.abs().mean(1, keepdim=True) * pm1(w))
    to_x = g * polynomial(x.detach())
    torch.testing.assert_close(x.grad, to_x)
    assert layer.threshold is not None
    torch.testing.assert_close(layer.threshold.grad, -to_x.sum((0, 1)))
    torch.testing.assert_close(layer.weight.grad, torch.einsum("abo,abi->oi", upstream, pm1(x.detach())) * inside(w))


def test_scale_and_bias_pass_gradcheck() -> None:
    case = make("recu", 1)
    assert case.layer.scale is not None and case.layer.bias is not None
    case.layer.weight.requires_grad_(False)

    def forward(scale: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(case.layer, {"scale": scale, "bias": bias}, (case.x.detach(),))

    assert torch.autograd.gradcheck(forward, (case.layer.scale, case.layer.bias))


@pytest.mark.parametrize("name", SCHEMES)
def test_ten_steps_of_training_lower_a_loss(name: str) -> None:
    scheme = get_scheme(name)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), RPReLU(8),
        BinaryConv2d(8, 8, 3, padding=1, scheme=scheme), nn.BatchNorm2d(8), RPReLU(8),
        BinaryConv2d(8, 8, 3, padding=1, groups=8, scheme=scheme, pad_value=1), nn.BatchNorm2d(8), RPReLU(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8),
        BinaryLinear(8, 8, scheme=scheme), nn.Linear(8, 2),
    )  # fmt: skip
    x, target = torch.randn(8, 3, 8, 8), torch.randn(8, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    before = {key: value.clone() for key, value in net.named_parameters()}
    losses = []
    for step in range(10):
        set_progress(net, step / 10)
        loss = F.mse_loss(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clip_latent_weights(net)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for key, value in net.named_parameters():
        assert value.isfinite().all()
        if value.dim() > 1:
            assert not torch.equal(value, before[key]), f"{key} did not move"
