from __future__ import annotations

import math

import pytest
import torch

from binmat.model_defs.pam_learning import distillation_loss, gumbel_gates, gumbel_noise, path_loss


def test_gates_are_the_argmax_and_carry_the_softmax_gradient() -> None:
    """softmax(log 3, 0) = (3/4, 1/4); its Jacobian's first row is (3/16, -3/16)."""
    logits = torch.zeros(1, 2, requires_grad=True)
    gates = gumbel_gates(logits, torch.tensor([[math.log(3), 0.0]]))
    assert gates.tolist() == [[1.0, 0.0]]
    gates[0, 0].backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[3 / 16, -3 / 16]]))


def test_temperature_smooths_the_gradient_and_not_the_gates() -> None:
    """At temperature 2, log 9 becomes log 3, and the gradient gets another factor 1/2."""
    logits = torch.tensor([[math.log(9), 0.0]], requires_grad=True)
    gates = gumbel_gates(logits, torch.zeros(1, 2), temperature=2.0)
    assert gates.tolist() == [[1.0, 0.0]]
    gates[0, 0].backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[3 / 32, -3 / 32]]))


def test_gates_are_exactly_zero_and_one() -> None:
    gates = gumbel_gates(torch.randn(1000, 4, 2), gumbel_noise(1000, 4, 2))
    assert set(gates.unique().tolist()) == {0.0, 1.0}


def test_gumbel_max_samples_the_softmax() -> None:
    """The noise has mean 0.5772 and variance pi^2 / 6, and logits (0, log 3) choose index 1 three times in four."""
    noise = gumbel_noise(100_000, 2, generator=torch.Generator().manual_seed(7))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
    chosen = gumbel_gates(torch.tensor([0.0, math.log(3)]), noise)[:, 1].mean()
    assert chosen.item() == pytest.approx(0.75, abs=0.01)


def test_path_loss_sums_over_layers_and_averages_over_images() -> None:
    """First image: four even estimates, 4 log 2. Second: three even ones and -log(3/4), 3 log 2 + log(4/3)."""
    logits = torch.zeros(2, 4, 2)
    logits[1, 2, 1] = math.log(3)
    loss = path_loss(logits, ["0101", "1010"])
    expected = (4 * math.log(2) + 3 * math.log(2) + math.log(4 / 3)) / 2
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_path_loss_pulls_the_estimate_toward_the_label() -> None:
    logits = torch.zeros(1, 4, 2, requires_grad=True)
    path_loss(logits, ["1000"]).backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [[0.5, -0.5], [-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5]]


def test_distillation_loss_over_the_unknown_pixels() -> None:
    """sqrt(0.3^2 + 0.4^2) = 0.5 and sqrt(0 + 0.4^2) = 0.4 are unknown, the third pixel is not: mean 0.45."""
    alpha = torch.tensor([0.5, 0.7, 1.0]).view(1, 1, 1, 3).requires_grad_()
    teacher = torch.tensor([0.2, 0.7, 0.0]).view(1, 1, 1, 3).requires_grad_()
    unknown = torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 1, 3)
    loss = distillation_loss(alpha, teacher, unknown, epsilon=0.4)
    assert loss.item() == pytest.approx(0.45, abs=1e-6)
    loss.backward()
    # d/da sqrt(d^2 + e^2) = d / sqrt(d^2 + e^2) = 0.6, over two pixels.
    torch.testing.assert_close(alpha.grad, torch.tensor([0.3, 0.0, 0.0]).view(1, 1, 1, 3))
    assert teacher.grad is None


def test_distillation_loss_without_unknown_pixels_is_zero() -> None:
    alpha, teacher = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    assert distillation_loss(alpha, teacher, torch.zeros(2, 1, 4, 4)).item() == 0.0
