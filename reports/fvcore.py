"""The convention of fvcore, as a cross-check: many papers print what fvcore counts."""

from __future__ import annotations

from binmat.nn import BinaryLayer
from binmat.nn.operators import OPERATORS, Kind

from .call_recorder import Call
from .convention import FREE, Convention, Cost
from .macs import macs_of
from .norms import has_gain, ib_norm_elements

#: How often fvcore counts each output element of an interpolation; other modes it does not know.
_PER_ELEMENT = {"nearest": 1, "bilinear": 4}


def _product(call: Call) -> Cost:
    macs = macs_of(call)
    return Cost(bops=macs) if isinstance(call.module, BinaryLayer) else Cost(flops=macs)


def _batch_norm(call: Call) -> Cost:
    return Cost(flops=(1 + has_gain(call)) * call.input.numel())


def _other_norm(call: Call) -> Cost:
    return Cost(flops=(4 + has_gain(call)) * call.input.numel())


def _ib_norm(call: Call) -> Cost:
    """The official network has batch norm and instance norm side by side."""
    batch, instance = ib_norm_elements(call)
    return Cost(flops=2 * batch + 4 * instance)


def _interpolation(call: Call) -> Cost:
    mode = call.argument(3, "mode") if call.module is None else getattr(call.module, "mode", None)
    share = _PER_ELEMENT.get(mode or "nearest", 0)
    return Cost(flops=share * call.output.numel()) if call.output.dim() == 4 else FREE


def _pooling(call: Call) -> Cost:
    return Cost(flops=call.input.numel()) if call.output.dim() == 4 else FREE


FVCORE = Convention(
    name="fvcore",
    definition=(
        "What fvcore's FlopCountAnalysis totals: multiply-accumulates, and per element: batch norm 2, group, layer and "
        "instance norm 5 (4 without gain), bilinear upsampling 4, nearest 1, adaptive average pooling 1."
    ),
    rules={
        Kind.PRODUCT: _product,
        OPERATORS["batch_norm"]: _batch_norm,
        OPERATORS["instance_norm"]: _other_norm,
        OPERATORS["group_norm"]: _other_norm,
        OPERATORS["layer_norm"]: _other_norm,
        OPERATORS["ib_norm"]: _ib_norm,
        Kind.UPSAMPLE: _interpolation,
        Kind.INTERPOLATION: _interpolation,
        OPERATORS["adaptive_avg_pool"]: _pooling,
    },
)
"""On a float network it equals fvcore 0.1.5's total where fvcore sees the same operators. It counts what the official
network has: MODNet's IBNorm, which binmat writes out for export, as batch norm and instance norm. Binary layers, which
fvcore does not know, are counted in BOPs.
"""
