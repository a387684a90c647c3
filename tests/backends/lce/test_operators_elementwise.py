"""Functions of single elements, comparisons, logic and numeric types, each through the interpreter."""

from __future__ import annotations

import pytest
import torch
from lce_support import assert_verified, export
from torch.nn import functional as F

from binmat.errors import ExportError

ONE = {
    "sin": torch.sin,
    "cos": torch.cos,
    "tan": lambda x: torch.tan(x / 2),
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "atan": torch.atan,
    "asin": lambda x: torch.asin(x.clamp(-1, 1)),
    "acos": lambda x: torch.acos(x.clamp(-1, 1)),
    "round": lambda x: (3 * x).round(),
    "round halves to even": lambda x: ((2 * x).floor() / 2).round(),
    "round decimals": lambda x: x.round(decimals=2),
    "ceil": lambda x: (3 * x).ceil(),
    "trunc": lambda x: (3 * x).trunc(),
    "fix": lambda x: (3 * x).fix(),
    "frac": lambda x: (3 * x).frac(),
    "sign of zeros": lambda x: torch.sign(x.relu()),
    "sgn": lambda x: torch.sgn(x),
    "remainder": lambda x: x % 0.7,
    "remainder by a negative": lambda x: torch.remainder(x, -0.7),
    "remainder of a scalar": lambda x: torch.remainder(2.0, x),
    "fmod": lambda x: torch.fmod(x, 0.7),
    "floor divide": lambda x: x // 0.3,
    "floor division of multiples": lambda x: (x * 10).round() * 0.1 // 0.1,
    "divide and truncate": lambda x: torch.div(x, 0.3, rounding_mode="trunc"),
    "divide and floor": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "power of a scalar": lambda x: 2.0**x,
    "negative power": lambda x: (x.abs() + 0.5) ** -1.5,
    "power 3 of negatives": lambda x: x**3,
    "power 0": lambda x: x**0,
    "float power": lambda x: torch.pow(x.abs(), 0.3),
    "log2": lambda x: (x.abs() + 0.1).log2(),
    "log10": lambda x: (x.abs() + 0.1).log10(),
    "log1p": lambda x: x.abs().log1p(),
    "log1p of small values": lambda x: (x * 1e-6).log1p(),
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "expm1 of small values": lambda x: (x * 1e-6).expm1(),
    "erf": torch.erf,
    "erf of small values": lambda x: torch.erf(x * 1e-3),
    "erf of zero": lambda x: torch.erf(x.relu()),
    "erfc": torch.erfc,
    "gelu": F.gelu,
    "gelu by hand": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "quick gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "log sigmoid": lambda x: F.logsigmoid(9 * x),
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "softshrink": lambda x: F.softshrink(x, 0.3),
    "hardshrink": lambda x: F.hardshrink(x, 0.3),
    "threshold": lambda x: F.threshold(x, 0.1, 20.0),
    "logit": lambda x: torch.logit(torch.sigmoid(x)),
    "logit with eps": lambda x: torch.logit(x.clamp(0, 1), eps=1e-2),
    "deg2rad": torch.deg2rad,
    "isnan": lambda x: torch.isnan(torch.where(x > 0, x, float("nan"))),
    "isinf": lambda x: torch.isinf(torch.where(x > 0, x, float("-inf"))),
    "isfinite": lambda x: torch.isfinite(torch.where(x > 0, x, float("nan"))),
    "nan to num": lambda x: torch.nan_to_num(torch.where(x > 0, x, float("nan")), 0.5),
    "positive": lambda x: +x,
    "heaviside": lambda x: torch.heaviside(x, torch.tensor(0.5)),
    "clamp by a lower tensor": lambda x: x.clamp(min=torch.arange(9.0) / 9),
    "clamp by an upper tensor": lambda x: x.clamp(max=torch.arange(9.0) / 9),
}


@pytest.mark.parametrize("name", ONE)
def test_function_of_one_tensor(name):
    assert_verified(ONE[name], torch.randn(1, 3, 5, 9))
    assert_verified(ONE[name], torch.randn(4, 9))


TWO = {
    "atan2": torch.atan2,
    "remainder": torch.remainder,
    "fmod": torch.fmod,
    "floor divide": lambda x, y: torch.floor_divide(x, y + 3),
    "divide and truncate": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
    "pow": lambda x, y: (x.abs() + 0.1) ** y,
    "hypot": torch.hypot,
    "addcdiv": lambda x, y: torch.addcdiv(x, x, y.abs() + 1, value=0.3),
    "maximum": lambda x, y: torch.max(x, y),
    "minimum": lambda x, y: torch.min(x, y),
    "logaddexp": torch.logaddexp,
    "xor": lambda x, y: (x > 0) ^ (y > 0),
    "logical xor": lambda x, y: torch.logical_xor(x > 0, y > 0),
    "logic of floats": lambda x, y: (
        torch.logical_and(x.relu(), y),
        torch.logical_or(x, y),
        torch.logical_not(x.relu()),
    ),
    "sum of booleans": lambda x, y: (x > 0) + (y > 0),
    "product of booleans": lambda x, y: (x > 0) * (y > 0),
    "equal booleans": lambda x, y: ((x > 0) == (y > 0), (x > 0) != (y > 0)),
    "where broadcasts": lambda x, y: torch.where(x[:, :1] > 0, x, y[..., :1]),
    "where of booleans": lambda x, y: torch.where(x > 0, y > 0, y < -1),
    "squared difference": lambda x, y: F.mse_loss(x, y),
    "l1 loss": lambda x, y: F.l1_loss(x, y, reduction="none"),
    "smooth l1": lambda x, y: F.smooth_l1_loss(x, y),
}


@pytest.mark.parametrize("name", TWO)
def test_function_of_two_tensors(name):
    assert_verified(TWO[name], torch.randn(1, 3, 5, 9), torch.randn(1, 3, 5, 9))
    assert_verified(TWO[name], torch.randn(4, 9), torch.randn(4, 9))


WHOLE = {
    "add": lambda x, y: (x + y, x + 2, 3 - x),
    "multiply": lambda x, y: x * y,
    "true division": lambda x, y: x / 3,
    "remainder": lambda x, y: (x % 3, torch.remainder(x, -4), torch.remainder(x, y)),
    "fmod": lambda x, y: torch.fmod(x, 3),
    "floor divide": lambda x, y: (x // 3, torch.floor_divide(x, -2), torch.floor_divide(x, y)),
    "divide and truncate": lambda x, y: torch.div(x, 3, rounding_mode="trunc"),
    "power": lambda x, y: x**2,
    "compare": lambda x, y: (x > y, x == y, x <= 2, x != 0),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "clamp": lambda x, y: (x.clamp(-2, 3), x.clamp(min=0)),
    "relu": lambda x, y: x.relu(),
    "negate": lambda x, y: -x,
    "absolute": lambda x, y: x.abs(),
    "sign": lambda x, y: x.sign(),
    "round": lambda x, y: (x.round(), x.floor(), x.ceil(), x.trunc()),
    "functions promote": lambda x, y: (x.exp(), x.sigmoid(), x.cos(), (x * x + 1).log(), (x * x).sqrt()),
    "to float": lambda x, y: x.float() * 0.5,
    "to bool": lambda x, y: x.bool(),
    "where": lambda x, y: torch.where(x > 0, x, 0),
    "mixed with floats": lambda x, y: x * 0.5 + y,
    "alpha": lambda x, y: torch.add(x, y, alpha=2),
    "not equal then count": lambda x, y: (x != y).long() + 1,
    "subtract booleans as numbers": lambda x, y: (x > 0).int() - (y > 0).int(),
}


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name, dtype):
    x, y = (torch.randint(-9, 10, (1, 3, 4, 5), dtype=dtype) for _ in range(2))
    inputs = x, torch.where(y == 0, 20, y).to(dtype)
    if dtype == torch.int64 and "divide" in name:
        with pytest.raises(ExportError, match="divides int64, which TFLite does for int32 alone: make them int32"):
            assert_verified(WHOLE[name], *inputs)
    else:
        assert_verified(WHOLE[name], *inputs)


TYPES = {
    "truncate to integers": lambda x: ((5 * x).int(), (5 * x).long()),
    "integers and back": lambda x: (5 * x).long().float() / 5,
    "boolean and back": lambda x: (x > 0).float(),
    "boolean to integers": lambda x: (x > 0).long(),
    "float64 and back": lambda x: (x.double() * 1.5).float(),
    "float64 constant": lambda x: x.double() * torch.arange(9, dtype=torch.float64),
    "float64 of a picture": lambda x: x.double().exp().sum(-1),
    "float16 and back": lambda x: x.half().float(),
    "float16 arithmetic": lambda x: ((x.half() * 1.7) + x.half()).float(),
    "float16 multiplied": lambda x: x.half().sigmoid().float() * x,
    "type as": lambda x: (x > 0).type_as(x),
    "float to the same": lambda x: x.float() + x.to(torch.float32),
}


@pytest.mark.parametrize("name", TYPES)
def test_conversions(name):
    assert_verified(TYPES[name], torch.randn(1, 3, 5, 9))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 3), (), (1, 2, 3, 4, 5)])
def test_inputs_and_outputs_of_any_type(dtype, shape):
    x = torch.randint(0, 2, shape).to(dtype)
    assert_verified(lambda x: (x, x.float() * 2), x)
    assert_verified(lambda x: (x == 1, x, x.flatten(), x[None]), x)


@pytest.mark.parametrize(
    "value", [torch.tensor(2.5), torch.arange(6).reshape(2, 3), torch.ones(1, 2, 3, 4), torch.tensor(True)]
)
def test_constant_as_output(value):
    assert_verified(lambda x: (x + 1, value), torch.randn(1, 3, 2, 2))
    assert_verified(lambda x: (value, value), torch.randn(1, 3, 2, 2))


def test_exclusive_or_of_bits():
    assert_verified(torch.bitwise_xor, *(torch.randint(-9, 10, (1, 3, 4, 5), dtype=torch.int32) for _ in range(2)))


def test_scalar_tensors():
    assert_verified(
        lambda x, s: (x * s, s + 1, s * s, torch.where(x > s, x, s)), torch.randn(1, 3, 2, 2), torch.tensor(0.3)
    )
    assert_verified(lambda x: x.flatten().index_select(0, torch.tensor(3)), torch.randn(1, 3, 2, 2))
    assert_verified(lambda x: torch.stack([x.mean(), torch.tensor(3.0)]), torch.randn(1, 3, 2, 2))


RANKS = {
    "outer sum": lambda x: x.unsqueeze(-1) + x.unsqueeze(-2),
    "outer maximum": lambda x: torch.maximum(x.unsqueeze(-1), x.unsqueeze(-2)),
    "outer comparison": lambda x: x.unsqueeze(-1) > x.unsqueeze(-2),
    "outer selection": lambda x: torch.where(x.unsqueeze(-1) > 0, x.unsqueeze(-2), x.mean()),
    "outer power": lambda x: (x.abs() + 1).unsqueeze(-1) ** x.unsqueeze(-2),
    "outer remainder": lambda x: torch.remainder(x.unsqueeze(0), x.unsqueeze(1)[..., :1]),
    "outer logic": lambda x: (x > 0).unsqueeze(-1) & (x < 1).unsqueeze(-2),
    "scattered constant": lambda x: x + torch.arange(x[..., :1].numel()).reshape(x[..., :1].shape),
    "outer division": lambda x: x.unsqueeze(0) / (x.unsqueeze(1)[..., :1] ** 2 + 1),
}


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3, 4), (2, 3, 1, 2, 3), (1, 2, 3, 2, 3, 2)])
@pytest.mark.parametrize("name", RANKS)
def test_broadcasting_at_any_rank(name, shape):
    assert_verified(RANKS[name], torch.randn(shape))


REFUSED = {
    "bits of integers": (lambda x: (5 * x).int() & (3 * x).int(), "bits of integers"),
    "bfloat16": (lambda x: x.bfloat16().float(), "bfloat16"),
    "bits of int64": (lambda x: (5 * x).long() ^ (3 * x).long(), "bits of int64"),
    "arithmetic of bytes": (lambda x: x.to(torch.uint8) + 1, "quantized"),
    "sign bit": (torch.signbit, "no exact counterpart"),
    "digamma": (torch.digamma, "no exact counterpart"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_operator(name):
    function, reason = REFUSED[name]
    with pytest.raises(ExportError, match=reason):
        export(function, [torch.randn(1, 3, 5, 9)])
