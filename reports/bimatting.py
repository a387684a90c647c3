"""The convention of the BiMatting paper's tables (Qin et al., NeurIPS 2023)."""

from __future__ import annotations

from torch import Tensor

from binmat.nn import BinaryLayer
from binmat.nn.operators import OPERATORS, Kind
from binmat.nn.sbb import SubSBB
from binmat.quantizers import SCALES

from .call_recorder import Call
from .convention import Convention, Cost
from .macs import biases_of, input_scale_map_macs, macs_of
from .norms import has_gain, ib_norm_elements


def _outputs(call: Call) -> int:
    output: Tensor = call.output
    return output.numel()


def _product(call: Call) -> Cost:
    layer = call.module
    if not isinstance(layer, BinaryLayer):
        return Cost(flops=macs_of(call) + biases_of(call))
    per_output = int(SCALES[layer.scheme.weight.scale_kind].measure is not None)
    per_input = (layer.threshold is not None) * _branches(call)
    if layer.scheme.input_scale_map:
        per_output, per_input = per_output + 1, per_input + 1
    flops = biases_of(call) + per_output * _outputs(call) + per_input * call.input.numel()
    flops += input_scale_map_macs(call)
    return Cost(flops=flops, bops=macs_of(call))


def _branches(call: Call) -> int:
    """How many convolutions the paper draws for this one: a sub-SBB copies its input once for each of them."""
    if isinstance(call.parent, SubSBB) and call.module is call.parent.conv1:
        return max(1, call.parent.conv1.out_channels // call.parent.conv1.in_channels)
    return 1


def _norm(call: Call) -> Cost:
    return Cost(flops=(2 if has_gain(call) else 1) * _outputs(call))


def _ib_norm(call: Call) -> Cost:
    with_gain, without = ib_norm_elements(call)
    return Cost(flops=2 * with_gain + without)


def _one_per_output(call: Call) -> Cost:
    return Cost(flops=_outputs(call))


def _one_per_input(call: Call) -> Cost:
    return Cost(flops=call.input.numel())


BIMATTING = Convention(
    name="bimatting",
    definition=(
        "Multiply-accumulates (on bits 1/64), and per element: bias 1, batch norm 2, ReLU and PReLU 1, nn.Upsample 1, "
        "scale and learnable threshold of a binary layer 1, and, in float networks only, pooling 1."
    ),
    rules={
        Kind.PRODUCT: _product,
        Kind.NORM: _norm,
        OPERATORS["ib_norm"]: _ib_norm,
        Kind.RECTIFIER: _one_per_output,
        Kind.UPSAMPLE: _one_per_output,
    },
    float_rules={Kind.POOL: _one_per_input},
)
"""Counted: multiply-accumulates, one FLOP each in a float layer and one BOP in a binary one; OPs = FLOPs + BOPs / 64.
FLOPs per output element: bias 1; batch norm 2 (other norms 2 with gain and shift, 1 without); ReLU, ReLU6, LeakyReLU,
PReLU, RPReLU 1; nn.Upsample 1; scale of a binary layer 1, whether per channel or per layer. Per input element:
learnable threshold of a binary layer 1, whether per channel or per layer; pooling 1, in float networks. XNOR-Net's
map K, where a scheme uses it: 1 per input element, its box filter, 1 per output element.

Free: hardswish, sigmoid, tanh and other curves, F.interpolate, element-wise arithmetic (residual additions, the gates
of a recurrence, the guided filter's products), the shifts in RPReLU, DoReFa's fixed threshold, moving data.

Quirks, kept because the paper's numbers come out with them and not without: pooling costs in a float network and is
free in a binary one, so one binary layer makes all pooling free; nn.Upsample costs and F.interpolate does not; the 1x1
of a sub-SBB that multiplies channels pays its threshold once for each of the branches that the paper draws.
The paper has no numbers for norms other than batch norm, activations other than ReLU and PReLU, and the map K: these
follow what it does for their like.
"""
