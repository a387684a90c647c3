"""sign and step: values at the edges, gradients of every estimator, bytes kept for backward."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from binmat.quantizers import ESTIMATORS, sign, step
from binmat.quantizers.sign import is_negative

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", FLOATS)
def test_sign_of_zero_negative_zero_and_nan_is_plus_one(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, -0.0, math.nan, -math.nan, 0.5, -0.5, math.inf, -math.inf], dtype=dtype)
    assert sign(x).dtype == dtype
    assert sign(x).tolist() == [1, 1, 1, 1, 1, -1, 1, -1]
    assert step(x).tolist() == [1, 1, 1, 1, 1, 0, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("flush", [False, True])
def test_denormals_of_float32_are_not_negative_in_either_flush_mode(dtype: torch.dtype, flush: bool) -> None:
    x = torch.tensor([-1e-40, 1e-40, -(2.0**-127), -(2.0**-126), -1e-37], dtype=dtype)
    supported = torch.set_flush_denormal(flush)
    try:
        assert sign(x).tolist() == [1, 1, 1, -1, -1]
    finally:
        torch.set_flush_denormal(False)
    assert supported or not flush


def test_every_negative_float16_is_negative() -> None:
    negative = torch.arange(-(2**15), -(2**15) + 0x7C00, dtype=torch.int16).view(torch.float16)[1:]
    assert (negative < 0).all() and is_negative(negative).all()


@given(st.floats(width=32, allow_nan=False, allow_subnormal=False))
def test_sign_is_that_of_the_number(value: float) -> None:
    assert sign(torch.tensor([value])).item() == (-1 if value < 0 else 1)


def derivative(estimator: str, u: Tensor) -> Tensor:
    """The documented derivative at u, written independently."""
    if estimator == "clip":
        return torch.tensor([1.0 if -1 <= v <= 1 else 0.0 for v in u.tolist()], dtype=u.dtype)
    if estimator == "polynomial":
        return torch.tensor([round(127 * max(0.0, 2 - abs(2 * v))) / 127 for v in u.tolist()], dtype=u.dtype)
    return torch.ones_like(u)


@pytest.mark.parametrize("estimator", ["clip", "polynomial", "identity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_the_documented_derivative(estimator: str, dtype: torch.dtype) -> None:
    edges = torch.tensor([-2, -1 - 1e-5, -1, -0.5, -0.25, -0.0, 0, 0.3, 0.5, 1, 1 + 1e-5, 3], dtype=dtype)
    u = torch.cat([edges, torch.randn(300, dtype=dtype)])
    grad = torch.randn(len(u), dtype=dtype)
    for bit, scale in ((sign, 1.0), (step, 0.5)):
        x = (u * scale).requires_grad_()
        bit(x, estimator).backward(grad)
        assert x.grad is not None
        torch.testing.assert_close(x.grad, grad * derivative(estimator, u), rtol=1e-6, atol=0)


def test_polynomial_is_exact_at_zero_half_and_one_and_close_elsewhere() -> None:
    x = torch.tensor([0.0, 0.5, -0.5, 1.0, -1.0, 7.0], dtype=torch.float64, requires_grad=True)
    sign(x, "polynomial").sum().backward()
    assert x.grad is not None and x.grad.tolist() == [2, 1, 1, 0, 0, 0]
    x = torch.linspace(-1.5, 1.5, 1001, dtype=torch.float64, requires_grad=True)
    sign(x, "polynomial").sum().backward()
    exact = (2 - 2 * x.detach().abs()).clamp(min=0)
    assert x.grad is not None and (x.grad - exact).abs().max() <= 1 / 254 + 1e-12


def scheduled(estimator: str, u: float, progress: float) -> float:
    """The published derivative at u, exactly."""
    if estimator == "ede":  # IR-Net: g(u) = k tanh(t u)
        t = 10 ** (-1 + 2 * progress)
        return max(1 / t, 1) * t / math.cosh(t * u) ** 2
    if estimator == "fourier":  # FDA: the series 4 / pi * sum of sin((2i + 1) w u) / (2i + 1), term by term
        n = 9 + int(9 * progress)
        return sum(0.4 / math.pi * math.cos((2 * i + 1) * 0.1 * u) for i in range(n + 1)) if abs(u) <= 1 else 0.0
    o = 1 + 2 * (1 - math.cos(progress * math.pi / 2))  # ReSTE: sign(u) abs(u)^(1/o)
    if abs(u) > 1.5:
        return 0.0
    return 0.1 ** (1 / o) / 0.1 if abs(u) <= 0.1 else abs(u) ** (1 / o - 1) / o


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("estimator", ["ede", "fourier", "power"])
def test_estimators_that_follow_the_training_are_within_half_a_step(estimator: str, progress: float) -> None:
    edges = [-2, -1.5, -1, -0.1, 0, 0.05, 0.1, 0.3, 1, 1.5, 4]
    u = torch.cat([torch.tensor(edges, dtype=torch.float64), torch.randn(300, dtype=torch.float64)])
    exact = torch.tensor([scheduled(estimator, value, progress) for value in u.tolist()], dtype=torch.float64)
    half = 0.5 * scheduled(estimator, 0, progress) / (127 if estimator == "fourier" else 254)
    for bit, scale in ((sign, 1.0), (step, 0.5)):
        x = (u * scale).requires_grad_()
        bit(x, estimator, progress).sum().backward()
        assert x.grad is not None
        assert (x.grad - exact).abs().max() <= half * (1 + 1e-9)


@pytest.mark.parametrize("estimator", ["ede", "fourier", "power"])
def test_no_byte_wraps_where_a_coarse_type_rounds_the_peak_up(estimator: str) -> None:
    for progress in torch.linspace(0, 1, 41).tolist():
        u = torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)
        sign(u, estimator, progress).sum().backward()
        assert u.grad is not None and (u.grad > 0).all()


def test_estimators_that_follow_the_training_at_its_ends() -> None:
    def at_zero(estimator: str, progress: float) -> float:
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        sign(x, estimator, progress).backward()
        assert x.grad is not None
        return x.grad.item()

    assert [at_zero("ede", p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1, 1, 10])
    terms = (10, 18, 19)
    assert [at_zero("fourier", p) for p in (0.0, 0.99, 1.0)] == pytest.approx([0.4 / math.pi * n for n in terms])
    assert [at_zero("power", p) for p in (0.0, 1.0)] == pytest.approx([1, 100 ** (1 / 3)])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("bit", [sign, step])
def test_backward_keeps_at_most_one_byte_per_element(bit: object, estimator: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 4, dtype=dtype, requires_grad=True)
    kept: list[Tensor] = []

    def record(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        y = bit(x, estimator)  # type: ignore[operator]
    assert y.requires_grad
    assert sum(tensor.untyped_storage().nbytes() for tensor in kept) == (0 if estimator == "identity" else x.numel())


def test_nothing_is_kept_without_gradients() -> None:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda tensor: tensor):
        assert not sign(torch.randn(5)).requires_grad
    assert kept == []


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    x = torch.randn(5, requires_grad=True)
    (grad,) = torch.autograd.grad(sign(x, "polynomial").square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_without_gradients_nothing_is_kept_for_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(u: Tensor) -> Tensor:
        raise AssertionError("kept")

    monkeypatch.setitem(ESTIMATORS, "clip", replace(ESTIMATORS["clip"], keep=keep))
    weight = torch.tensor([-1.0, 2.0], requires_grad=True)
    with torch.no_grad():
        assert sign(weight).tolist() == [-1, 1]
        assert step(weight).tolist() == [0, 1]
