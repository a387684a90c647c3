"""What an operator is, under every spelling a traced graph calls it by: the one table of operators.

Patterns on the graph, the execution of masked paths and the counting conventions read it. An operator that is not in it
is unknown to them: patterns pass it by, and reports name it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binmat.nn.ibnorm import IBNorm
from binmat.nn.incoherence import IncoherenceMask
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


def _operator(
    names: str,
    kind: Kind,
    *modules: type[nn.Module],
    functions: tuple[Callable[..., Any], ...] = (),
    pointwise: bool = False,
    non_negative: NonNegative = NonNegative.UNKNOWN,
    replaceable: bool = False,
) -> Operator:
    """An operator by what it is called, the first name being its own.

    Each name stands for the functions of that name in torch, torch.nn.functional and operator, for the tensor method,
    and for their in-place forms, which end in an underscore.
    """
    spelt = [form for name in names.split() for form in (name, f"{name}_")]
    found = [getattr(place, form, None) for place in (torch, F, operator) for form in spelt]
    return Operator(
        name=names.split()[0],
        kind=kind,
        modules=modules,
        functions=tuple(dict.fromkeys((*(f for f in found if callable(f)), *functions))),
        methods=tuple(form for form in spelt if hasattr(Tensor, form)),
        pointwise=pointwise,
        non_negative=non_negative,
        replaceable=replaceable,
    )


def _products() -> list[Operator]:
    kind = Kind.PRODUCT
    return [
        _operator("conv conv1d conv2d conv3d", kind, nn.Conv1d, nn.Conv2d, nn.Conv3d),
        _operator(
            "conv_transpose conv_transpose1d conv_transpose2d conv_transpose3d",
            kind,
            *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        ),
        _operator("linear", kind, nn.Linear),
        _operator("matmul mm bmm", kind),
        _operator("addmm baddbmm", kind),
    ]


def _norms() -> list[Operator]:
    # Functions in torch of these names take their arguments in another order and are not what modules call.
    def norm(name: str, *modules: type[nn.Module], pointwise: bool = False) -> Operator:
        function = getattr(F, name, None)
        found = () if function is None else (function,)
        return Operator(name, Kind.NORM, modules, found, (), pointwise, NonNegative.UNKNOWN, replaceable=False)

    return [
        norm("batch_norm", nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, pointwise=True),
        norm("instance_norm", nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        norm("group_norm", nn.GroupNorm),
        norm("layer_norm", nn.LayerNorm),
        norm("local_response_norm", nn.LocalResponseNorm),
        norm("ib_norm", IBNorm),
    ]


def _activations() -> list[Operator]:
    def activation(name: str, kind: Kind, *modules: type[nn.Module], **facts: Any) -> Operator:
        return _operator(name, kind, *modules, **{"pointwise": True, "replaceable": True} | facts)

    always = NonNegative.ALWAYS
    return [
        activation("relu", Kind.RECTIFIER, nn.ReLU, non_negative=always),
        activation("relu6", Kind.RECTIFIER, nn.ReLU6, non_negative=always),
        activation("leaky_relu", Kind.RECTIFIER, nn.LeakyReLU),
        activation("prelu", Kind.RECTIFIER, nn.PReLU),
        activation("rprelu", Kind.RECTIFIER, RPReLU, replaceable=False),
        activation("hardtanh", Kind.CURVE, nn.Hardtanh),
        activation("hardswish", Kind.CURVE, nn.Hardswish),
        activation("silu", Kind.CURVE, nn.SiLU),
        activation("gelu", Kind.CURVE, nn.GELU),
        activation("elu", Kind.CURVE, nn.ELU),
        activation("selu", Kind.CURVE, nn.SELU),
        activation("mish", Kind.CURVE, nn.Mish),
        activation("softplus", Kind.CURVE, nn.Softplus, non_negative=always, replaceable=False),
        activation("sigmoid", Kind.CURVE, nn.Sigmoid, non_negative=always, replaceable=False),
        activation("hardsigmoid", Kind.CURVE, nn.Hardsigmoid, non_negative=always, replaceable=False),
        activation("tanh", Kind.CURVE, nn.Tanh, replaceable=False),
        _operator("softmax", Kind.CURVE, nn.Softmax, nn.Softmax2d, non_negative=always),
        _operator("log_softmax", Kind.CURVE, nn.LogSoftmax),
    ]


def _resizing() -> list[Operator]:
    def pool(names: str, *modules: type[nn.Module]) -> Operator:
        return _operator(names, Kind.POOL, *modules, non_negative=NonNegative.AS_INPUT)

    return [
        pool(
            "max_pool max_pool1d max_pool2d max_pool3d "
            "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices",
            *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
        ),
        pool("avg_pool avg_pool1d avg_pool2d avg_pool3d", nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        pool(
            "adaptive_avg_pool adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
            *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        ),
        pool(
            "adaptive_max_pool adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
            *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        ),
        # With a mode that does not overshoot.
        _operator(
            "module_upsample",
            Kind.UPSAMPLE,
            *(nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
            non_negative=NonNegative.AS_INPUT,
        ),
        _operator(
            "interpolate upsample upsample_nearest upsample_bilinear",
            Kind.INTERPOLATION,
            non_negative=NonNegative.AS_INPUT,
        ),
    ]


def _arithmetic() -> list[Operator]:
    kind = Kind.ARITHMETIC
    always, as_input, as_operands = NonNegative.ALWAYS, NonNegative.AS_INPUT, NonNegative.AS_OPERANDS
    elementwise: dict[NonNegative, tuple[str, ...]] = {
        NonNegative.UNKNOWN: (
            *("sub isub subtract", "mod", "neg negative", "log", "clamp clamp_min clamp_max clip", "where", "lerp"),
            *("and_", "or_", "invert"),
        ),
        always: (
            *("exp", "sqrt", "rsqrt", "square", "eq", "ne", "lt", "le", "gt", "ge"),
            *("logical_not", "logical_and", "logical_or"),
        ),
        as_input: ("sign", "floor", "ceil", "pow"),
        as_operands: (
            *("add iadd", "mul imul multiply", "div truediv itruediv divide true_divide", "floordiv floor_divide"),
            *("minimum", "maximum"),
        ),
    }
    return [
        *(
            _operator(names, kind, pointwise=True, non_negative=non_negative)
            for non_negative, all_names in elementwise.items()
            for names in all_names
        ),
        _operator("abs", kind, functions=(abs,), pointwise=True, non_negative=always),
        _operator("round", kind, functions=(round,), pointwise=True, non_negative=as_input),
        _operator("number", kind, functions=(int, float), pointwise=True, non_negative=as_input),
        *(_operator(name, kind, non_negative=as_input) for name in ("mean", "sum", "amax", "amin")),
        *(_operator(name, kind, non_negative=always) for name in ("var", "std")),
        # Of one tensor or element by element of two.
        _operator("max", kind, functions=(max,), non_negative=as_input),
        _operator("min", kind, functions=(min,), non_negative=as_operands),
        _operator("shift", kind, Shift, pointwise=True),
        _operator("incoherence_mask", kind, IncoherenceMask, non_negative=always),
    ]


def _movement() -> list[Operator]:
    kind, as_input = Kind.MOVEMENT, NonNegative.AS_INPUT
    moved = (
        *("chunk", "split", "unbind", "stack", "reshape", "view", "view_as", "permute", "transpose", "t", "unsqueeze"),
        *("squeeze", "expand", "expand_as", "repeat", "repeat_interleave", "contiguous", "detach", "clone", "to"),
        *("float", "double", "half", "type", "type_as", "flip", "roll", "narrow", "gather", "index_select", "getitem"),
    )
    return [
        _operator("identity", kind, nn.Identity, pointwise=True, non_negative=as_input),
        _operator("flatten", kind, nn.Flatten, non_negative=as_input),
        _operator("unflatten", kind, nn.Unflatten, non_negative=as_input),
        _operator("unfold", kind, nn.Unfold, non_negative=as_input),
        _operator("pixel_shuffle", kind, nn.PixelShuffle, non_negative=as_input),
        _operator("pixel_unshuffle", kind, nn.PixelUnshuffle, non_negative=as_input),
        _operator("channel_shuffle", kind, nn.ChannelShuffle, non_negative=as_input),
        _operator(
            "dropout dropout1d dropout2d dropout3d feature_dropout",
            kind,
            *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
            non_negative=as_input,
        ),
        _operator("alpha_dropout feature_alpha_dropout", kind, nn.AlphaDropout, nn.FeatureAlphaDropout),
        # With a value that is not negative.
        _operator(
            "pad",
            kind,
            *(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
            *(nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
            *(nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
            non_negative=as_input,
        ),
        # Not operator.concat, which adds sequences.
        _operator("cat concatenate", kind, functions=(torch.concat,), non_negative=as_input),
        *(_operator(name, kind, non_negative=as_input) for name in moved),
        *(_operator(name, kind, non_negative=NonNegative.ALWAYS) for name in ("zeros", "zeros_like", "new_zeros")),
        *(_operator(name, kind, non_negative=NonNegative.ALWAYS) for name in ("ones", "ones_like", "new_ones")),
        *(_operator(name, kind) for name in ("full", "full_like", "new_full", "arange", "size", "dim", "numel")),
        _operator("getattr", kind, functions=(getattr,)),
    ]


#: Every known operator by its name.
OPERATORS: Mapping[str, Operator] = {
    entry.name: entry
    for entries in (_products(), _norms(), _activations(), _resizing(), _arithmetic(), _movement())
    for entry in entries
}

_SPELLINGS: Mapping[Target, Operator] = {
    spelling: entry for entry in OPERATORS.values() for spelling in entry.spellings
}


def operator_of(target: Target, *, exact: bool = False) -> Operator | None:
    """The operator that a module's class, a function or a tensor method's name stands for; None where it is unknown.

    A class stands for the one that it derives from; with ``exact`` it does not, since it may compute something else.

    >>> operator_of("relu_") is operator_of(nn.ReLU)
    True
    """
    targets = target.__mro__ if isinstance(target, type) and not exact else (target,)
    return next((_SPELLINGS[spelling] for spelling in targets if spelling in _SPELLINGS), None)
