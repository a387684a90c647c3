"""Multiply-accumulates of convolutions, linear layers and matrix products: geometry, the same in every convention."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.nn import BinaryConv2d, BinaryLayer

from .calls import Call, Target


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


MACS: Mapping[Target, Callable[[Call], int]] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d, F.conv1d, F.conv2d, F.conv3d), convolution),
    **dict.fromkeys(
        (
            nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
            F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
        ),
        transposed_convolution,
    ),
    **dict.fromkeys((nn.Linear, F.linear), linear),
    **dict.fromkeys((operator.matmul, torch.matmul, torch.mm, torch.bmm, "matmul", "mm", "bmm"), matmul),
    **dict.fromkeys((torch.addmm, torch.baddbmm, "addmm", "baddbmm"), addmm),
}  # fmt: skip


def macs_of(call: Call) -> int:
    """Multiply-accumulates of one call, on floats or bits; 0 for what has none."""
    key = call.key_in(MACS)
    return 0 if key is None else MACS[key](call)


def input_scale_map_macs(call: Call) -> int:
    """XNOR-Net's map K of a binary convolution whose scheme has it: a box filter per group; 0 otherwise."""
    layer = call.module
    if not isinstance(layer, BinaryLayer) or not layer.scheme.input_scale_map or not isinstance(layer, BinaryConv2d):
        return 0
    kernel = layer.kernel_size[0] * layer.kernel_size[1]
    return int(call.output.numel() // layer.out_channels * layer.groups * kernel)
