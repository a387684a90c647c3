"""fvcore's convention, as a cross-check: papers whose FLOPs are fvcore's totals can be compared with."""

from __future__ import annotations

from torch.nn import functional as F
from torch.nn.modules import batchnorm, instancenorm, normalization, pooling, upsampling

from binmat.nn import BinaryLayer
from binmat.nn.ibnorm import IBNorm

from .calls import Call
from .convention import FREE, Convention, Cost
from .macs import MACS, macs_of
from .operators import ARITHMETIC, CURVES, INTERPOLATES, MOVEMENT, NORMS, POOLS, RECTIFIERS, UPSAMPLES, ibnorm_elements

#: How often fvcore counts each output element of an interpolation; other modes it does not know.
_PER_ELEMENT = {"nearest": 1, "bilinear": 4}


def _float_layer(call: Call) -> Cost:
    return Cost(flops=macs_of(call))


def _binary_layer(call: Call) -> Cost:
    return Cost(bops=macs_of(call))


def _batch_norm(call: Call) -> Cost:
    return Cost(flops=(1 if getattr(call.module, "weight", None) is None else 2) * call.input.numel())


def _other_norm(call: Call) -> Cost:
    return Cost(flops=(4 if getattr(call.module, "weight", None) is None else 5) * call.input.numel())


def _ibnorm(call: Call) -> Cost:
    """The official network has batch norm and instance norm side by side."""
    batch, instance = ibnorm_elements(call)
    return Cost(flops=2 * batch + 4 * instance)


def _interpolation(call: Call) -> Cost:
    mode = call.argument(3, "mode") if call.module is None else getattr(call.module, "mode", None)
    share = _PER_ELEMENT.get(mode or "nearest", 0)
    return Cost(flops=share * call.output.numel()) if call.output.dim() == 4 else FREE


def _pooling(call: Call) -> Cost:
    return Cost(flops=call.input.numel())


FVCORE = Convention(
    name="fvcore",
    definition=(
        "What fvcore's FlopCountAnalysis totals: multiply-accumulates, and per element: batch norm 2, group, layer and "
        "instance norm 5 (4 without gain), bilinear upsampling 4, nearest 1, adaptive average pooling 1."
    ),
    rules={
        **dict.fromkeys(MACS, _float_layer),
        BinaryLayer: _binary_layer,
        batchnorm._NormBase: _batch_norm,
        instancenorm._InstanceNorm: _other_norm,
        normalization.GroupNorm: _other_norm,
        normalization.LayerNorm: _other_norm,
        IBNorm: _ibnorm,
        **dict.fromkeys((upsampling.Upsample, F.interpolate, F.upsample), _interpolation),
        **dict.fromkeys((pooling.AdaptiveAvgPool2d, F.adaptive_avg_pool2d), _pooling),
    },
    free=NORMS | RECTIFIERS | CURVES | POOLS | UPSAMPLES | INTERPOLATES | ARITHMETIC | MOVEMENT,
)
"""On a float network it equals fvcore 0.1.5's total where fvcore sees the same operators. It counts what the official
network has: MODNet's IBNorm, which binmat writes out for export, as batch norm and instance norm. Binary layers, which
fvcore does not know, are counted in BOPs.
"""
