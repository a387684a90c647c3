"""Multiply-accumulates and biases of every product: convolutions, linear layers, matrix products, attention, recurrent
layers. It is geometry, the same in every convention that counts the operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from binmat.nn import BinaryConv2d, BinaryLayer
from binmat.nn.operators import OPERATORS, Operator

from .attention import dot_product_macs, multi_head_biases, multi_head_macs
from .call_recorder import Call
from .einsum import einsum_macs
from .recurrent_layers import recurrent_biases, recurrent_macs


def _weight(call: Call) -> Tensor:
    weight: Tensor = call.argument(1, "weight") if call.module is None else call.module.weight  # type: ignore[assignment]
    return weight


def _added_bias(call: Call) -> int:
    """A convolution or linear layer, module or function, adds its bias to each output element."""
    bias = call.argument(2, "bias") if call.module is None else getattr(call.module, "bias", None)
    return 0 if bias is None else _outputs(call)


def _outputs(call: Call) -> int:
    output: Tensor = call.output
    return output.numel()


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
    """Each element of the product sums over the shared dimension; batch dimensions are broadcast."""
    return int(call.output.numel() * call.input.shape[-1])


def added_matmul(call: Call) -> int:
    """The product in addmm, baddbmm and addbmm; what it is added to is a bias."""
    factor: Tensor = call.argument(1, "mat1" if call.operator is OPERATORS["addmm"] else "batch1")
    return factor.numel() * int(call.output.shape[-1])


def added_matrix_vector(call: Call) -> int:
    """The product in addmv; what it is added to is a bias."""
    matrix: Tensor = call.argument(1, "mat")
    return matrix.numel()


def tensordot(call: Call) -> int:
    """Each output element sums over the contracted dimensions, which both factors have and the output has not."""
    factor, other = call.argument(0, "a"), call.argument(1, "b")
    return isqrt(factor.numel() * other.numel() * call.output.numel())


def bilinear(call: Call) -> int:
    """The first factor times the weight, and that times the second factor."""
    second: Tensor = call.argument(1, "input2")
    weight: Any = call.argument(2, "weight") if call.module is None else call.module.weight
    features = second.shape[-1]
    return int(call.output.numel() * features * (weight.shape[1] + 1))


def _bilinear_bias(call: Call) -> int:
    bias = call.argument(3, "bias") if call.module is None else call.module.bias
    return 0 if bias is None else _outputs(call)


MACS: Mapping[Operator, Callable[[Call], int]] = {
    OPERATORS["conv"]: convolution,
    OPERATORS["conv_transpose"]: transposed_convolution,
    OPERATORS["linear"]: linear,
    OPERATORS["matmul"]: matmul,
    OPERATORS["mv"]: matmul,
    OPERATORS["dot"]: matmul,
    OPERATORS["outer"]: _outputs,
    OPERATORS["addmm"]: added_matmul,
    OPERATORS["baddbmm"]: added_matmul,
    OPERATORS["addmv"]: added_matrix_vector,
    OPERATORS["addr"]: _outputs,
    OPERATORS["tensordot"]: tensordot,
    OPERATORS["einsum"]: einsum_macs,
    OPERATORS["bilinear"]: bilinear,
    OPERATORS["scaled_dot_product_attention"]: dot_product_macs,
    OPERATORS["multihead_attention"]: multi_head_macs,
    OPERATORS["rnn"]: recurrent_macs,
    OPERATORS["rnn_cell"]: recurrent_macs,
}

_BIASES: Mapping[Operator, Callable[[Call], int]] = {
    OPERATORS["conv"]: _added_bias,
    OPERATORS["conv_transpose"]: _added_bias,
    OPERATORS["linear"]: _added_bias,
    OPERATORS["addmm"]: _outputs,
    OPERATORS["baddbmm"]: _outputs,
    OPERATORS["addmv"]: _outputs,
    OPERATORS["addr"]: _outputs,
    OPERATORS["bilinear"]: _bilinear_bias,
    OPERATORS["multihead_attention"]: multi_head_biases,
    OPERATORS["rnn"]: recurrent_biases,
    OPERATORS["rnn_cell"]: recurrent_biases,
}


def biases_of(call: Call) -> int:
    """Additions of biases in one call; 0 for what has none."""
    formula = None if call.operator is None else _BIASES.get(call.operator)
    return 0 if formula is None else formula(call)


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
