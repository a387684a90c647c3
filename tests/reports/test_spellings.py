"""An operator is counted alike in every spelling: as a module, as a function, as a tensor method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from report_support import Wrapped, counted
from torch import nn
from torch.nn import functional as F

from binmat.nn.operators import OPERATORS, Kind
from binmat.reports import CONVENTIONS, CROSS_CHECKS

MAP = (1, 4, 8, 6)

#: Operator -> a module, the same as functions of its module and the input, each in one spelling, and the input's shape.
SPELT: dict[str, list[tuple[nn.Module, list[Callable[[Any, torch.Tensor], Any]], tuple[int, ...]]]] = {
    "conv": [
        (nn.Conv1d(4, 2, 3), [lambda m, x: F.conv1d(x, m.weight, m.bias)], (1, 4, 9)),
        (nn.Conv2d(4, 2, 3), [lambda m, x: F.conv2d(x, m.weight, m.bias)], MAP),
        (nn.Conv3d(4, 2, 3), [lambda m, x: F.conv3d(x, weight=m.weight, bias=m.bias)], (1, 4, 5, 5, 5)),
    ],
    "conv_transpose": [
        (nn.ConvTranspose1d(4, 2, 3), [lambda m, x: F.conv_transpose1d(x, m.weight, m.bias)], (1, 4, 9)),
        (nn.ConvTranspose2d(4, 2, 3), [lambda m, x: F.conv_transpose2d(x, m.weight, m.bias)], MAP),
        (nn.ConvTranspose3d(4, 2, 3), [lambda m, x: F.conv_transpose3d(x, m.weight, m.bias)], (1, 4, 5, 5, 5)),
    ],
    "linear": [(nn.Linear(6, 5), [lambda m, x: F.linear(x, m.weight, m.bias)], MAP)],
    "batch_norm": [
        (
            nn.BatchNorm2d(4),
            [
                lambda m, x: F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias),
                lambda m, x: F.batch_norm(x, m.running_mean, m.running_var, weight=m.weight, bias=m.bias),
            ],
            MAP,
        ),
        (nn.BatchNorm2d(4, affine=False), [lambda m, x: F.batch_norm(x, m.running_mean, m.running_var)], MAP),
    ],
    "instance_norm": [
        (nn.InstanceNorm2d(4), [lambda m, x: F.instance_norm(x)], MAP),
        (
            nn.InstanceNorm2d(4, affine=True),
            [lambda m, x: F.instance_norm(x, None, None, m.weight, m.bias)],
            MAP,
        ),
    ],
    "group_norm": [
        (nn.GroupNorm(2, 4), [lambda m, x: F.group_norm(x, 2, m.weight, m.bias)], MAP),
        (nn.GroupNorm(2, 4, affine=False), [lambda m, x: F.group_norm(x, 2)], MAP),
    ],
    "layer_norm": [
        (nn.LayerNorm(6), [lambda m, x: F.layer_norm(x, (6,), m.weight, m.bias)], MAP),
        (nn.LayerNorm(6, elementwise_affine=False), [lambda m, x: F.layer_norm(x, (6,))], MAP),
    ],
    "rms_norm": [
        (
            nn.RMSNorm(6),
            [lambda m, x: F.rms_norm(x, (6,), m.weight), lambda m, x: torch.rms_norm(x, (6,), m.weight)],
            MAP,
        ),
        (nn.RMSNorm(6, elementwise_affine=False), [lambda m, x: F.rms_norm(x, (6,))], MAP),
    ],
    "local_response_norm": [(nn.LocalResponseNorm(3), [lambda m, x: F.local_response_norm(x, 3)], MAP)],
    "relu": [
        (
            nn.ReLU(),
            [
                *(lambda m, x: F.relu(x), lambda m, x: torch.relu(x), lambda m, x: torch.relu_(x)),
                *(lambda m, x: F.relu_(x), lambda m, x: x.relu(), lambda m, x: x.relu_()),
            ],
            MAP,
        )
    ],
    "relu6": [(nn.ReLU6(), [lambda m, x: F.relu6(x)], MAP)],
    "leaky_relu": [(nn.LeakyReLU(), [lambda m, x: F.leaky_relu(x), lambda m, x: F.leaky_relu_(x)], MAP)],
    "prelu": [
        (
            nn.PReLU(4),
            [lambda m, x: F.prelu(x, m.weight), lambda m, x: torch.prelu(x, m.weight), lambda m, x: x.prelu(m.weight)],
            MAP,
        )
    ],
    "hardtanh": [(nn.Hardtanh(), [lambda m, x: F.hardtanh(x), lambda m, x: F.hardtanh_(x)], MAP)],
    "hardswish": [(nn.Hardswish(), [lambda m, x: F.hardswish(x)], MAP)],
    "silu": [(nn.SiLU(), [lambda m, x: F.silu(x)], MAP)],
    "gelu": [(nn.GELU(), [lambda m, x: F.gelu(x)], MAP)],
    "elu": [(nn.ELU(), [lambda m, x: F.elu(x), lambda m, x: F.elu_(x)], MAP)],
    "selu": [(nn.SELU(), [lambda m, x: F.selu(x), lambda m, x: torch.selu(x), lambda m, x: torch.selu_(x)], MAP)],
    "mish": [(nn.Mish(), [lambda m, x: F.mish(x)], MAP)],
    "celu": [(nn.CELU(), [lambda m, x: F.celu(x), lambda m, x: torch.celu_(x)], MAP)],
    "rrelu": [(nn.RReLU(), [lambda m, x: F.rrelu(x), lambda m, x: torch.rrelu(x)], MAP)],
    "logsigmoid": [(nn.LogSigmoid(), [lambda m, x: F.logsigmoid(x)], MAP)],
    "softsign": [(nn.Softsign(), [lambda m, x: F.softsign(x)], MAP)],
    "softshrink": [(nn.Softshrink(), [lambda m, x: F.softshrink(x)], MAP)],
    "hardshrink": [(nn.Hardshrink(), [lambda m, x: F.hardshrink(x), lambda m, x: x.hardshrink()], MAP)],
    "tanhshrink": [(nn.Tanhshrink(), [lambda m, x: F.tanhshrink(x)], MAP)],
    "threshold": [(nn.Threshold(0.5, 0.0), [lambda m, x: F.threshold(x, 0.5, 0.0)], MAP)],
    "softmin": [(nn.Softmin(1), [lambda m, x: F.softmin(x, 1)], MAP)],
    "glu": [(nn.GLU(1), [lambda m, x: F.glu(x, 1)], MAP)],
    "softplus": [(nn.Softplus(), [lambda m, x: F.softplus(x)], MAP)],
    "sigmoid": [(nn.Sigmoid(), [lambda m, x: torch.sigmoid(x), lambda m, x: x.sigmoid_()], MAP)],
    "hardsigmoid": [(nn.Hardsigmoid(), [lambda m, x: F.hardsigmoid(x)], MAP)],
    "tanh": [(nn.Tanh(), [lambda m, x: torch.tanh(x), lambda m, x: x.tanh_()], MAP)],
    "softmax": [(nn.Softmax(1), [lambda m, x: F.softmax(x, 1), lambda m, x: x.softmax(1)], MAP)],
    "log_softmax": [(nn.LogSoftmax(1), [lambda m, x: F.log_softmax(x, 1), lambda m, x: x.log_softmax(1)], MAP)],
    "max_pool": [(nn.MaxPool2d(2), [lambda m, x: F.max_pool2d(x, 2), lambda m, x: torch.max_pool2d(x, 2)], MAP)],
    "lp_pool": [(nn.LPPool2d(2, 2), [lambda m, x: F.lp_pool2d(x, 2.0, 2)], MAP)],
    "avg_pool": [(nn.AvgPool2d(2), [lambda m, x: F.avg_pool2d(x, 2)], MAP)],
    "adaptive_avg_pool": [
        (nn.AdaptiveAvgPool1d(2), [lambda m, x: F.adaptive_avg_pool1d(x, 2)], (1, 4, 8)),
        (nn.AdaptiveAvgPool2d(2), [lambda m, x: F.adaptive_avg_pool2d(x, 2)], MAP),
    ],
    "adaptive_max_pool": [(nn.AdaptiveMaxPool2d(2), [lambda m, x: F.adaptive_max_pool2d(x, 2)], MAP)],
    "flatten": [(nn.Flatten(), [lambda m, x: x.flatten(1), lambda m, x: torch.flatten(x, 1)], MAP)],
    "unflatten": [
        (nn.Unflatten(1, (2, 2)), [lambda m, x: x.unflatten(1, (2, 2))], MAP),
    ],
    "unfold": [(nn.Unfold(2), [lambda m, x: F.unfold(x, 2)], MAP)],
    "pixel_shuffle": [(nn.PixelShuffle(2), [lambda m, x: F.pixel_shuffle(x, 2)], MAP)],
    "pixel_unshuffle": [(nn.PixelUnshuffle(2), [lambda m, x: F.pixel_unshuffle(x, 2)], MAP)],
    "channel_shuffle": [(nn.ChannelShuffle(2), [lambda m, x: F.channel_shuffle(x, 2)], MAP)],
    "dropout": [(nn.Dropout(), [lambda m, x: F.dropout(x), lambda m, x: F.dropout2d(x)], MAP)],
    "alpha_dropout": [(nn.AlphaDropout(), [lambda m, x: F.alpha_dropout(x)], MAP)],
    "fold": [(nn.Fold((4, 3), 2), [lambda m, x: F.fold(x, (4, 3), 2)], (1, 8, 6))],
    "pad": [(nn.ZeroPad2d(1), [lambda m, x: F.pad(x, (1, 1, 1, 1))], MAP)],
}


def test_every_operator_of_both_forms_is_among_them() -> None:
    both = {o.name for o in OPERATORS.values() if o.modules and (o.functions or o.methods)}
    # test_products.py has the first four; the others are free.
    several_inputs = {"bilinear", "multihead_attention", "rnn", "rnn_cell"}
    several_inputs |= {"cosine_similarity", "embedding", "pairwise_distance"}
    assert set(SPELT) == both - several_inputs


@pytest.mark.parametrize("convention", [*CONVENTIONS, *CROSS_CHECKS])
@pytest.mark.parametrize("name", SPELT)
def test_modules_functions_and_methods_count_alike(name: str, convention: str) -> None:
    for module, functions, shape in SPELT[name]:
        expected = counted(nn.Sequential(module), *shape, convention=convention)
        assert not expected.not_counted
        for function in functions:
            found = counted(Wrapped(lambda m, x, f=function: f(m.kept, x), kept=module), *shape, convention=convention)
            assert not found.not_counted
            assert found.total == expected.total


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conventions_price_kinds(convention: str) -> None:
    """Each kind of operator has one price per element, save those that a convention names."""
    by_kind = {kind: {o for o in OPERATORS.values() if o.kind is kind} for kind in Kind}
    assert all(by_kind.values())
    single = CONVENTIONS[convention].rules.keys() - set(Kind)
    assert {operator.name for operator in single} <= {"ib_norm"}
