"""Multiply-accumulates of convolutions, linear layers and matrix products: geometry, the same in every convention."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from binmat.nn import BinaryConv2d, BinaryLayer
from binmat.nn.operators import OPERATORS, Operator

from .call_recorder import Call


def _weight(call: Call) -> Tensor:
    weight: Tensor = call.argument(1, "weight") if call.module is None else call.module.weight  # type: ignore[assignment]
    return weight


def has_bias(call: Call) -> bool:
    """Whether a convolution or linear layer, module or function, adds a bias."""
    bias = call.argument(2, "bias") if call.module is None else getattr(call.module, "bias", None)
    return bias is not None


def convolution(call: Call) -> int:
    """Each output element sums over its group's input channels and the kernel; padding counts like any input."""
    return int(call.output.numel() * _weight(call)[0].numel())


def transposed_convolution(call: Call) -> int:
    """Each input element is spread over its group's output channels and the kernel."""
    return int(call.input.numel() * _weight(call)[0].numel())


def linear(call: Call) -> int:
    """Each output element sums over the input features."""
    return int(call.output.numel() * _weight(call).shape[-1])


def matmul(call: Call) -> int:
    """Each element of the product sums over the shared dimension."""
    return int(call.output.numel() * call.input.shape[-1])


def addmm(call: Call) -> int:
    """The product in addmm and baddbmm; what it is added to is a bias."""
    return int(call.output.numel() * call.args[1].shape[-1])


MACS: Mapping[Operator, Callable[[Call], int]] = {
    OPERATORS["conv"]: convolution,
    OPERATORS["conv_transpose"]: transposed_convolution,
    OPERATORS["linear"]: linear,
    OPERATORS["matmul"]: matmul,
    OPERATORS["addmm"]: addmm,
}


def macs_of(call: Call) -> int:
    """Multiply-accumulates of one call, on floats or bits; 0 for what has none."""
    formula = None if call.operator is None else MACS.get(call.operator)
    return 0 if formula is None else formula(call)


def input_scale_map_macs(call: Call) -> int:
    """XNOR-Net's map K of a binary convolution whose scheme has it: a box filter per group; 0 otherwise."""
    layer = call.module
    if not isinstance(layer, BinaryLayer) or not layer.scheme.input_scale_map or not isinstance(layer, BinaryConv2d):
        return 0
    kernel = layer.kernel_size[0] * layer.kernel_size[1]
    return int(call.output.numel() // layer.out_channels * layer.groups * kernel)
