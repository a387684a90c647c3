"""ReCU: its schedule, its standardised and clamped weights, and their gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from binmat.quantizers.sign import sign
from binmat.quantizers.weight_methods import WEIGHT_METHODS, recu, recu_standardised, recu_tau

centre = WEIGHT_METHODS["recu"].source


def test_schedule_runs_exponentially_from_85_to_99_percent() -> None:
    assert recu_tau(0.0) == pytest.approx(0.85, abs=1e-12)
    assert recu_tau(1.0) == pytest.approx(0.99, abs=1e-12)
    assert recu_tau(0.5) == pytest.approx(0.85 + 0.14 * (math.exp(0.5) - 1) / (math.e - 1), abs=1e-12)


def by_hand(weight: Tensor) -> Tensor:
    rows = []
    for row in weight.flatten(1).tolist():
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / (len(row) - 1)
        rows.append([(value - mean) * 2 * math.sqrt(2) / math.sqrt(variance + 1e-5) for value in row])
    return torch.tensor(rows, dtype=weight.dtype).view_as(weight)


def test_weights_are_standardised_per_output_channel() -> None:
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(recu_standardised(centre(weight)), by_hand(weight))


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_clamp_is_at_the_layers_quantile_and_keeps_signs(progress: float) -> None:
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64) * 0.1 + 0.05
    w1 = by_hand(weight)
    bound = -w1.abs().mean() * math.log(2 - 2 * recu_tau(progress))
    w2 = recu(centre(weight), progress)
    torch.testing.assert_close(w2, w1.clamp(-bound, bound))
    assert torch.equal(sign(w2), sign(weight - weight.mean((1, 2, 3), keepdim=True)))


def test_more_weights_keep_a_gradient_as_the_training_goes_on() -> None:
    weight = torch.randn(8, 16, 3, 3, dtype=torch.float64)
    bounds = [recu(centre(weight), progress).max().item() for progress in (0.0, 0.5, 1.0)]
    assert bounds == sorted(bounds) and bounds[0] < bounds[1]


def test_gradient_passes_inside_the_quantile_alone() -> None:
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    grad = torch.randn_like(weight)
    (found,) = torch.autograd.grad(recu(centre(weight), 0.0), weight, grad)

    w1 = by_hand(weight.detach())
    bound = -w1.abs().mean() * math.log(2 - 2 * 0.85)
    inside = (w1.abs() <= bound).double()
    assert 0 < inside.mean() < 1
    # d w1 / dw of one channel with n weights: w1 = c (w - m) / s, s^2 = var + eps
    expected = torch.empty_like(grad)
    for o in range(3):
        centred = (weight[o] - weight[o].mean()).detach()
        n = centred.numel()
        s = math.sqrt(centred.square().sum().item() / (n - 1) + 1e-5)
        g = grad[o] * inside[o] * 2 * math.sqrt(2)
        expected[o] = (g - g.mean()) / s - centred * (g * centred).sum() / ((n - 1) * s**3)
    torch.testing.assert_close(found, expected)


def test_standardising_passes_gradcheck() -> None:
    weight = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda weight: recu_standardised(centre(weight)), (weight,))


def test_a_channel_of_one_weight_stays_finite() -> None:
    weight = torch.tensor([[0.3], [-2.0]], requires_grad=True)
    w2 = recu(centre(weight), 0.0)
    w2.sum().backward()
    assert w2.flatten().tolist() == [0, 0]
    assert weight.grad is not None and weight.grad.isfinite().all()
