"""The convention of fvcore, as a cross-check: many papers print what fvcore counts."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from binmat.nn import BinaryLayer
from binmat.nn.operators import OPERATORS, Kind

from .attention import attention_of
from .call_recorder import Call
from .convention import FREE, Convention, Cost
from .einsum import equation_of, operands_of
from .macs import macs_of
from .norms import has_gain, ib_norm_elements, of_the_batch

#: How often fvcore counts each output element of an interpolation; other modes it does not know.
_PER_ELEMENT = {"nearest": 1, "bilinear": 4}
_LEFT_OUT = Cost(left_out=True)


def _product(call: Call) -> Cost:
    macs = macs_of(call)
    return Cost(bops=macs) if isinstance(call.module, BinaryLayer) else Cost(flops=macs)


def _left_out(call: Call) -> Cost:
    return _LEFT_OUT


def _convolution(call: Call) -> Cost:
    """Padding by name ("same") is an operator of its own in PyTorch, which fvcore does not know."""
    if isinstance(call.module, BinaryLayer):
        return _product(call)
    module = call.module
    padding = call.argument(4, "padding") if module is None else getattr(module, "padding", 0)
    by_name = isinstance(padding, str) and getattr(module, "padding_mode", "zeros") == "zeros"
    return _LEFT_OUT if by_name else _product(call)


def _matmul(call: Call) -> Cost:
    """By the first factor's shape: what broadcasting repeats of it is not counted. It fails on a vector behind."""
    other: Tensor = call.argument(1, "other" if call.argument(1, "mat2") is None else "mat2")
    return Cost(flops=call.input.numel() * other.shape[-1]) if other.dim() > 1 else _LEFT_OUT


def _einsum(call: Call) -> Cost:
    """Two equations by their shapes; others as NumPy estimates them, to four digits, halved."""
    equation, operands = equation_of(call), operands_of(call)
    letters = dict.fromkeys(letter for letter in equation if letter.isalpha())
    named = equation.translate({ord(letter): 97 + position for position, letter in enumerate(letters)})
    if named == "abc,abd->acd":
        return Cost(flops=operands[0].numel() * operands[1].shape[-1])
    if named == "abc,adc->adb":
        return Cost(flops=operands[0].numel() * operands[1].shape[1])
    arrays = [np.broadcast_to(np.zeros(()), tuple(operand.shape)) for operand in operands]
    _, account = np.einsum_path(named, *arrays, optimize="optimal")
    estimate = next(line for line in account.splitlines() if "optimized flop" in line.lower())
    return Cost(flops=int(float(estimate.split(":")[-1]) // 2))


def _multi_head(call: Call) -> Cost:
    """As where gradients are enabled: without them, PyTorch runs self-attention as an operator that fvcore does not
    know. Scores that are masked (baddbmm) and scaled_dot_product_attention are unknown to it as well."""
    found = attention_of(call)
    if not found.gives_scores:
        return Cost(flops=found.projections, left_out=True)
    if found.masked:
        return Cost(flops=found.projections + found.values, left_out=True)
    return Cost(flops=found.macs)


def _batch_norm(call: Call) -> Cost:
    if of_the_batch(call):
        return _other_norm(call)
    return Cost(flops=(1 + has_gain(call)) * call.input.numel())


def _other_norm(call: Call) -> Cost:
    return Cost(flops=(4 + has_gain(call)) * call.input.numel())


def _ib_norm(call: Call) -> Cost:
    """The official network has batch norm and instance norm side by side."""
    batch, instance = ib_norm_elements(call)
    return Cost(flops=2 * batch + 4 * instance)


def _interpolation(call: Call) -> Cost:
    if call.output.dim() != 4 or call.argument(6, "antialias"):
        return FREE
    mode = call.argument(3, "mode") if call.module is None else getattr(call.module, "mode", None)
    if mode == "area":
        return Cost(flops=call.input.numel())
    return Cost(flops=_PER_ELEMENT.get(mode or "nearest", 0) * call.output.numel())


def _sampling(call: Call) -> Cost:
    output: Tensor = call.output
    return Cost(flops=4 * output.numel())


def _pooling(call: Call) -> Cost:
    in_two = "2d" in getattr(call.target, "__name__", "")
    return Cost(flops=call.input.numel()) if in_two else FREE


FVCORE = Convention(
    name="fvcore",
    definition=(
        "What fvcore's FlopCountAnalysis totals: multiply-accumulates of the products that it knows, and per element: "
        "batch norm 2, group, layer and instance norm 5 (4 without gain), bilinear upsampling and grid_sample 4, "
        "nearest 1, adaptive average pooling 1."
    ),
    rules={
        Kind.PRODUCT: _left_out,
        OPERATORS["conv"]: _convolution,
        OPERATORS["conv_transpose"]: _product,
        OPERATORS["linear"]: _product,
        OPERATORS["matmul"]: _matmul,
        OPERATORS["addmm"]: _product,
        OPERATORS["einsum"]: _einsum,
        OPERATORS["multihead_attention"]: _multi_head,
        OPERATORS["rnn_cell"]: _product,
        OPERATORS["batch_norm"]: _batch_norm,
        OPERATORS["instance_norm"]: _other_norm,
        OPERATORS["group_norm"]: _other_norm,
        OPERATORS["layer_norm"]: _other_norm,
        OPERATORS["ib_norm"]: _ib_norm,
        Kind.UPSAMPLE: _interpolation,
        Kind.INTERPOLATION: _interpolation,
        OPERATORS["grid_sample"]: _sampling,
        OPERATORS["adaptive_avg_pool"]: _pooling,
    },
)
"""On a float network it equals fvcore 0.1.5's total where fvcore sees the same operators. Products that fvcore does not
know are named as met but not counted: scaled_dot_product_attention, GRU, LSTM and RNN (their cells it knows), baddbmm
and other added products, bilinear layers, products with vectors, tensordot, convolutions whose padding is "same". It
counts what the official network has: MODNet's IBNorm, which binmat writes out for export, as batch norm and instance
norm. Binary layers, which fvcore does not know, are counted in BOPs.
"""
