"""What an operator is, under every spelling a traced graph calls it by: the one table of operators.

Patterns on the graph, the execution of masked paths and the counting conventions read it. An operator that is not in it
is unknown to them: patterns pass it by, and reports name it.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.nn.ibnorm import IBNorm
from binmat.nn.incoherence import IncoherenceMask
from binmat.nn.patches import ChosenPatches, CutPatches, LargestErrors, PastedPatches
from binmat.nn.rprelu import RPReLU
from binmat.nn.shift import Shift

#: A spelling of an operator: a module's class, a function, or the name of a tensor method.
Target = type | Callable[..., Any] | str


class Kind(Enum):
    """What sort of work an operator does, as far as counting conventions tell it apart."""

    #: Sums of products: convolutions, linear layers, matrix products.
    PRODUCT = auto()
    NORM = auto()
    #: Activation functions of one comparison and at most one multiplication.
    RECTIFIER = auto()
    #: Activation functions with a curve or two bends, and gates.
    CURVE = auto()
    POOL = auto()
    #: Resizing by nn.Upsample and by F.interpolate: some conventions count the one and not the other.
    UPSAMPLE = auto()
    INTERPOLATION = auto()
    #: Element by element, or reductions of one pass; on numbers (sizes) as well as on tensors.
    ARITHMETIC = auto()
    #: Moves, reshapes or makes values without computing any.
    MOVEMENT = auto()


class NonNegative(Enum):
    """When a result has no negative value."""

    UNKNOWN = auto()
    ALWAYS = auto()
    #: Where the first operand has none; further operands are sizes and positions.
    AS_INPUT = auto()
    #: Where no operand has one, numbers included.
    AS_OPERANDS = auto()


@dataclass(frozen=True, eq=False)
class Operator:
    """One operator, whatever its spelling.

    modules, functions, methods: its spellings. Where there are functions, the first module does what they do, and its
    arguments are theirs after the input, in the same order.
    pointwise: whether each pixel of the result depends on the same pixel of the operands alone (batch norm: in
    evaluation). non_negative: when the result has no negative value. replaceable: whether it is an activation function
    that a scheme may replace; gates (sigmoid, tanh, softmax) are not.
    """

    name: str
    kind: Kind
    modules: tuple[type[nn.Module], ...]
    functions: tuple[Callable[..., Any], ...]
    methods: tuple[str, ...]
    pointwise: bool
    non_negative: NonNegative
    replaceable: bool

    @property
    def spellings(self) -> tuple[Target, ...]:
        return (*self.modules, *self.functions, *self.methods)


_OWN = (ChosenPatches, CutPatches, IBNorm, IncoherenceMask, LargestErrors, PastedPatches, RPReLU, Shift)
_MODULES = {
    module.__name__.lower(): module
    for module in (*vars(nn).values(), *_OWN)
    if isinstance(module, type) and issubclass(module, nn.Module)
}

_REPLACEABLE = ("relu", "relu6", "leaky_relu", "prelu", "hardtanh", "hardswish", "silu", "gelu", "elu", "selu", "mish")

_UNKNOWN, _ALWAYS, _AS_INPUT, _AS_OPERANDS = NonNegative

#: Kind, when not negative, whether pointwise, and the operators of which that is true, with commas between them: their
#: own names first, then others they go by. A name stands for the module of that name, whatever its capitals, for the
#: functions of that name in the places below, for the tensor method, for the in-place forms of these, which end in an
#: underscore, and for the tensor's special method.
_TABLE: tuple[tuple[Kind, NonNegative, bool, str], ...] = (
    (
        Kind.PRODUCT, _UNKNOWN, False,
        """conv conv1d conv2d conv3d, conv_transpose conv_transpose1d conv_transpose2d conv_transpose3d, linear,
        matmul mm bmm imatmul, mv, dot vdot inner, outer ger, addmm, baddbmm addbmm, addmv, addr, tensordot, einsum,
        bilinear, scaled_dot_product_attention, multihead_attention multi_head_attention_forward,
        rnn rnn_tanh rnn_relu gru lstm, rnn_cell rnn_tanh_cell rnn_relu_cell gru_cell lstm_cell""",
    ),
    (Kind.NORM, _UNKNOWN, True, "batch_norm batch_norm1d batch_norm2d batch_norm3d sync_batch_norm"),
    (Kind.NORM, _UNKNOWN, False, "instance_norm instance_norm1d instance_norm2d instance_norm3d, group_norm"),
    (Kind.NORM, _UNKNOWN, False, "layer_norm, rms_norm, local_response_norm, ib_norm"),
    (Kind.RECTIFIER, _ALWAYS, True, "relu, relu6"),
    (Kind.RECTIFIER, _UNKNOWN, True, "leaky_relu, prelu, rprelu"),
    (Kind.CURVE, _ALWAYS, True, "softplus, sigmoid, hardsigmoid"),
    (Kind.CURVE, _UNKNOWN, True, "hardtanh, hardswish, silu, gelu, elu, selu, mish, tanh"),
    (Kind.CURVE, _ALWAYS, False, "softmax softmax2d"),
    (Kind.CURVE, _UNKNOWN, True, "celu, rrelu, logsigmoid, softsign, softshrink, hardshrink, tanhshrink, threshold"),
    (Kind.CURVE, _ALWAYS, False, "softmin"),
    (Kind.CURVE, _UNKNOWN, False, "log_softmax, glu"),
    (
        Kind.POOL, _AS_INPUT, False,
        """max_pool max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
        max_pool3d_with_indices, lp_pool lp_pool1d lp_pool2d lp_pool3d, avg_pool avg_pool1d avg_pool2d avg_pool3d,
        adaptive_avg_pool adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d,
        adaptive_max_pool adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
        adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices""",
    ),
    # With a mode that does not overshoot. The module alone: F.upsample calls F.interpolate.
    (Kind.UPSAMPLE, _AS_INPUT, False, "Upsample UpsamplingNearest2d UpsamplingBilinear2d"),
    (Kind.INTERPOLATION, _AS_INPUT, False, "interpolate"),
    (Kind.INTERPOLATION, _UNKNOWN, False, "grid_sample grid_sampler grid_sampler_2d grid_sampler_3d"),
    (
        Kind.ARITHMETIC, _UNKNOWN, True,
        """sub isub subtract rsub, mod imod remainder fmod, neg negative, log, log2, log10, log1p, expm1, reciprocal,
        clamp clamp_min clamp_max clip, where, masked_fill, lerp, addcmul, addcdiv, nan_to_num, sin, cos, tan, asin
        arcsin, acos arccos, atan arctan, atan2 arctan2, sinh, cosh, erf, logit, logaddexp, copysign, float_power,
        and_ iand, or_ ior, xor ixor, invert, bitwise_and, bitwise_or, bitwise_xor, bitwise_not, shift""",
    ),
    (Kind.ARITHMETIC, _ALWAYS, True, "abs absolute, exp, exp2, sqrt, rsqrt, square, hypot"),
    (
        Kind.ARITHMETIC, _ALWAYS, True,
        """eq equal, ne not_equal, lt less, le less_equal, gt greater, ge greater_equal, isnan, isinf, isfinite,
        isclose, logical_not not_, logical_and, logical_or, logical_xor, bool""",
    ),
    (Kind.ARITHMETIC, _AS_INPUT, True, "sign sgn, floor, ceil, round, trunc fix, frac, int, long, short, pow ipow"),
    (Kind.ARITHMETIC, _AS_OPERANDS, True, "add iadd, mul imul multiply, div truediv itruediv divide true_divide"),
    (Kind.ARITHMETIC, _AS_OPERANDS, True, "floordiv ifloordiv floor_divide, minimum fmin, maximum fmax"),
    # The least and the greatest: of one tensor, or element by element of two.
    (Kind.ARITHMETIC, _AS_OPERANDS, False, "min"),
    (
        Kind.ARITHMETIC, _AS_INPUT, False,
        "max, mean nanmean, sum nansum, prod, amax, amin, median, cumsum, cumprod, sort, topk, normalize",
    ),
    (
        Kind.ARITHMETIC, _ALWAYS, False,
        """var, std, norm vector_norm, any, all, argmax, argmin, argsort, count_nonzero, pairwise_distance,
        incoherence_mask, largest_errors, chosen_patches""",
    ),
    (Kind.ARITHMETIC, _UNKNOWN, False, "logsumexp, aminmax, std_mean, var_mean, cummax, cummin, cosine_similarity"),
    (Kind.MOVEMENT, _AS_INPUT, True, "identity"),
    # Padding: with a value that is not negative.
    (
        Kind.MOVEMENT, _AS_INPUT, False,
        """dropout dropout1d dropout2d dropout3d feature_dropout, pad constant_pad1d constant_pad2d constant_pad3d
        zero_pad1d zero_pad2d zero_pad3d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
        replication_pad2d replication_pad3d circular_pad1d circular_pad2d circular_pad3d, flatten ravel, unflatten,
        unfold, fold, pixel_shuffle, pixel_unshuffle,
        channel_shuffle native_channel_shuffle, cat concat concatenate, stack, hstack, vstack, dstack, column_stack,
        chunk unsafe_chunk, split split_with_sizes unsafe_split tensor_split, hsplit, vsplit, unbind, reshape
        reshape_as, view, view_as, permute, transpose swapaxes swapdims, movedim moveaxis, t, adjoint, unsqueeze,
        squeeze, expand broadcast_to, expand_as, repeat tile, repeat_interleave, contiguous, detach, clone, to, float,
        double, half, bfloat16, cpu, type, type_as, flip, fliplr, flipud, rot90, roll, narrow, select, diagonal, tril,
        triu, gather, take, take_along_dim, index_select, masked_select, as_strided, getitem, cut_patches""",
    ),
    (Kind.MOVEMENT, _ALWAYS, False, "zeros, zeros_like, new_zeros, ones, ones_like, new_ones, eye, one_hot"),
    (Kind.MOVEMENT, _ALWAYS, False, "rand, rand_like, bernoulli"),
    (Kind.MOVEMENT, _UNKNOWN, False, "alpha_dropout feature_alpha_dropout, full, full_like, new_full, arange"),
    (Kind.MOVEMENT, _UNKNOWN, False, "empty, empty_like, new_empty, linspace, randn, randn_like"),
    # What is written into a tensor may have any sign.
    (Kind.MOVEMENT, _UNKNOWN, False, "setitem, copy, fill, zero, scatter, scatter_add, pasted_patches"),
    (Kind.MOVEMENT, _UNKNOWN, False, "index_add, index_copy, index_put, embedding, meshgrid, broadcast_tensors"),
    (Kind.MOVEMENT, _UNKNOWN, False, "tensor as_tensor scalar_tensor new_tensor"),
    (Kind.MOVEMENT, _UNKNOWN, False, "size, dim, numel, getattr, len"),
)  # fmt: skip


#: Where the functions of that name are looked for.
_PLACES = (torch, F, torch.linalg, torch.special, operator, builtins, math)


def _operator(kind: Kind, non_negative: NonNegative, pointwise: bool, names: Sequence[str]) -> Operator:
    modules = tuple(_MODULES[key] for name in names if (key := name.replace("_", "").lower()) in _MODULES)
    forms = [form for name in names for form in (name, f"{name}_")]
    found = [getattr(place, form, None) for place in _PLACES for form in forms]
    found += [getattr(Tensor, f"__{name}__", None) for name in names]
    functions = tuple(dict.fromkeys(function for function in found if callable(function)))
    methods = tuple(form for form in forms if hasattr(Tensor, form))
    replaceable = names[0] in _REPLACEABLE
    return Operator(names[0], kind, modules, functions, methods, pointwise, non_negative, replaceable)


#: Every known operator by its name.
OPERATORS: Mapping[str, Operator] = {
    entry.split()[0]: _operator(kind, non_negative, pointwise, entry.split())
    for kind, non_negative, pointwise, entries in _TABLE
    for entry in entries.split(",")
}

_SPELLINGS: Mapping[Target, Operator] = {form: entry for entry in OPERATORS.values() for form in entry.spellings}


def operator_of(target: Target, *, exact: bool = False) -> Operator | None:
    """The operator that a module's class, a function or a tensor method's name stands for; None where it is unknown.

    A class stands for the one that it derives from; with ``exact`` it does not, since it may compute something else.

    >>> operator_of("relu_") is operator_of(nn.ReLU)
    True
    """
    targets = target.__mro__ if isinstance(target, type) and not exact else (target,)
    return next((_SPELLINGS[spelling] for spelling in targets if spelling in _SPELLINGS), None)
