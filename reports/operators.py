"""Operators by kind, under the names a traced graph calls them by: the vocabulary of the counting conventions.

A module's class stands for its subclasses, a function for itself, a string for the tensor method of that name.
What is in none of these sets is unknown to the conventions, and reports say so.
"""

from __future__ import annotations

import operator

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules import batchnorm, dropout, instancenorm, padding, pooling

from binmat.nn import RPReLU
from binmat.nn.ibnorm import IBNorm
from binmat.nn.incoherence import IncoherenceMask
from binmat.nn.shift import Shift

from .calls import Call, Target

NORMS: frozenset[Target] = frozenset(
    {batchnorm._NormBase, instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, IBNorm}
)

#: Activation functions of one comparison and at most one multiplication.
RECTIFIERS: frozenset[Target] = frozenset(
    {
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, RPReLU,
        torch.relu, F.relu, F.relu6, F.leaky_relu, F.prelu, "relu", "relu_",
    }
)  # fmt: skip

#: Activation functions with a curve, and gates.
CURVES: frozenset[Target] = frozenset(
    {
        nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Sigmoid, nn.Tanh, nn.SiLU, nn.GELU, nn.ELU, nn.SELU, nn.Softplus,
        nn.Mish, nn.Softmax, nn.Softmax2d, nn.LogSoftmax,
        F.hardswish, F.hardsigmoid, F.hardtanh, F.sigmoid, F.tanh, F.silu, F.gelu, F.elu, F.selu, F.softplus, F.mish,
        F.softmax, F.log_softmax, torch.sigmoid, torch.tanh, torch.softmax,
        "sigmoid", "tanh", "softmax",
    }
)  # fmt: skip

POOLS: frozenset[Target] = frozenset(
    {
        nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, pooling._MaxPoolNd, pooling._AdaptiveAvgPoolNd,
        pooling._AdaptiveMaxPoolNd,
        F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d, F.adaptive_avg_pool3d, F.adaptive_max_pool1d, F.adaptive_max_pool2d,
        F.adaptive_max_pool3d,
    }
)  # fmt: skip

UPSAMPLES: frozenset[Target] = frozenset({nn.Upsample})
INTERPOLATES: frozenset[Target] = frozenset({F.interpolate, F.upsample})

#: Element by element, or reductions of one pass; on numbers (sizes) as well as on tensors.
ARITHMETIC: frozenset[Target] = frozenset(
    {
        operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.neg,
        operator.pow, operator.abs, operator.iadd, operator.isub, operator.imul, operator.itruediv,
        operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.and_, operator.or_,
        operator.invert, min, max, abs, round, int, float,
        torch.add, torch.sub, torch.mul, torch.div, torch.neg, torch.abs, torch.exp, torch.log, torch.pow, torch.sqrt,
        torch.rsqrt, torch.square, torch.clamp, torch.minimum, torch.maximum, torch.where, torch.sign, torch.mean,
        torch.sum, torch.var, torch.std, torch.amax, torch.amin, torch.max, torch.min, torch.floor, torch.ceil,
        torch.lerp,
        "add", "sub", "mul", "div", "neg", "abs", "exp", "log", "pow", "sqrt", "rsqrt", "square", "clamp", "clamp_",
        "clamp_min", "clamp_max", "where", "sign", "mean", "sum", "var", "std", "amax", "amin", "max", "min", "floor",
        "ceil", "lerp", "add_", "sub_", "mul_", "div_", "ge", "gt", "le", "lt", "eq", "ne", "logical_not",
        "logical_and", "logical_or",
        IncoherenceMask, Shift,
    }
)  # fmt: skip

#: Moves, reshapes or makes values without computing any.
MOVEMENT: frozenset[Target] = frozenset(
    {
        nn.Identity, nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle,
        dropout._DropoutNd, padding._ConstantPadNd, padding._ReflectionPadNd, padding._ReplicationPadNd,
        F.pad, F.dropout, F.dropout2d, F.pixel_shuffle, F.pixel_unshuffle, F.unfold,
        getattr, operator.getitem, torch.cat, torch.concat, torch.stack, torch.chunk, torch.split, torch.flatten,
        torch.reshape, torch.permute, torch.transpose, torch.unsqueeze, torch.squeeze, torch.zeros, torch.zeros_like,
        torch.ones, torch.ones_like, torch.full, torch.full_like, torch.arange, torch.repeat_interleave, torch.roll,
        torch.flip, torch.gather, torch.index_select, torch.unbind,
        "size", "dim", "numel", "chunk", "split", "flatten", "unflatten", "reshape", "view", "permute", "transpose",
        "unsqueeze", "squeeze", "expand", "expand_as", "repeat", "repeat_interleave", "contiguous", "detach", "clone",
        "to", "float", "double", "half", "type", "type_as", "new_zeros", "new_ones", "new_full", "flip", "roll",
        "unbind", "gather", "index_select", "narrow", "t", "view_as", "unfold",
    }
)  # fmt: skip


def ibnorm_elements(call: Call) -> tuple[int, int]:
    """Of an IBNorm's call, the elements that are batch normalised, with gain and shift, and those that are not."""
    norm = call.module
    assert isinstance(norm, IBNorm)
    with_gain = call.input.numel() * norm.batch_channels // norm.channels
    return with_gain, call.input.numel() - with_gain
