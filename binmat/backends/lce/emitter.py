"""Adds operators to the model for the node that is being written, and converts values between orders and types."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.fx import Node

from binmat.backends.lce.layout import Order, Shape, permuted_order, plan_view, preferred_order, same_data, stored_shape
from binmat.backends.lce.tflite.builder import ModelBuilder
from binmat.backends.lce.tflite.schema import TENSOR_TYPES, Activation
from binmat.backends.lce.values import DTYPES, Bits, Value
from binmat.errors import ExportError
from binmat.transforms.lowering.sign_packing import words

#: Operator -> what writes it.
RULES: dict[object, Callable[..., Any]] = {}

_Rule = TypeVar("_Rule", bound=Callable[..., Any])


def rule(*targets: object) -> Callable[[_Rule], _Rule]:
    """Registers the rule of these operators.

    A rule takes the emitter and every argument of the operator's schema in order, defaults filled in. Nodes among
    the arguments arrive as their results. Where it cannot be exact it raises ExportError; the writer adds the names of
    node and layer.
    """

    def register(function: _Rule) -> _Rule:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return register


def rule_by_kind(write: Callable[..., Any], kinds: Mapping[object, str]) -> None:
    """Registers one rule for several operators. kinds: operator -> its TFLite operator, the rule's second argument."""
    for target, kind in kinds.items():
        RULES[target] = lambda e, *operands, kind=kind: write(e, kind, *operands)


class Emitter:
    """What rules write with. portable: whether LCE's reference kernel must be able to run the model."""

    def __init__(self, portable: bool) -> None:
        self.builder = ModelBuilder()
        self.portable = portable
        self.node: Node
        #: Tensor -> the nodes whose value it holds; an activation may only be fused into a tensor of one node.
        self.owners: dict[int, list[Node]] = {}
        #: Nodes without a tensor of their own, because they were fused with their only user.
        self.absorbed: set[Node] = set()
        #: Tensors that never hold -0.0, whose sign bit is then the sign that torch sees.
        self.without_negative_zero: set[int] = set()
        self._reordered: dict[tuple[int, Order, Order], Value] = {}

    @property
    def name(self) -> str:
        """What the current node's tensors are called: ``layer/node``."""
        layer = self.node.meta.get("layer")
        return f"{layer}/{self.node.name}" if layer else self.node.name

    @property
    def output_shape(self) -> Shape:
        return tuple(self.node.meta["val"].shape)

    @property
    def output_dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.node.meta["val"].dtype
        return dtype

    def emit(
        self,
        kind: str,
        inputs: Sequence[Value | int],
        shape: Sequence[int],
        order: Order | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Value:
        """One operator with one output of this torch shape, stored in `order` (default: the preferred one).

        options: of the operator, and those of :meth:`ModelBuilder.operator`.
        """
        order = preferred_order(len(shape)) if order is None else order
        [value] = self.emit_split(kind, inputs, [tuple(shape)], order, dtype, **options)
        return value

    def emit_split(
        self,
        kind: str,
        inputs: Sequence[Value | int],
        parts: Sequence[Shape],
        order: Order,
        dtype: torch.dtype,
        **options: Any,
    ) -> tuple[Value, ...]:
        """One operator with an output per part."""
        tensors = [self.builder.tensor(self.name, stored_shape(part, order), DTYPES[dtype]) for part in parts]
        indices = [operand.tensor if isinstance(operand, Value) else operand for operand in inputs]
        self.builder.operator(kind, indices, tensors, **options)
        return tuple(Value(tensor, part, order, dtype) for tensor, part in zip(tensors, parts, strict=True))

    def constant(self, array: Any, dtype: type[np.generic] = np.float32) -> int:
        return self.builder.constant(np.asarray(array, dtype=dtype), f"{self.name}/constant")

    def integers(self, values: Sequence[int]) -> int:
        """A constant vector of int32: axes, shapes, paddings."""
        return self.constant(values, np.int32)

    def tensor_constant(self, value: torch.Tensor, order: Order) -> int:
        """A constant in the given order; dimensions of size 1 in front are dropped, broadcasting brings them back."""
        array = value.detach().cpu().numpy()
        if array.dtype == np.float64:
            raise ExportError("a constant is float64, and the file holds float32: convert the network to float32 first")
        if array.dtype not in TENSOR_TYPES:
            raise ExportError(f"a constant is {array.dtype}, which the file cannot hold: make it float32")
        array = array.transpose(order)
        while array.ndim > 1 and array.shape[0] == 1:
            array = array[0]
        return self.builder.constant(array, f"{self.name}/constant")

    def value(self, operand: object) -> Value:
        """The operand as a value of the file: constants are written, bits become +-1."""
        if isinstance(operand, Value):
            return operand
        if isinstance(operand, Bits):
            return self.plain(operand)
        if isinstance(operand, torch.Tensor):
            order = preferred_order(operand.dim())
            array = operand.detach().cpu().numpy().transpose(order)
            tensor = self.builder.constant(np.ascontiguousarray(array), f"{self.name}/constant")
            return Value(tensor, tuple(operand.shape), order, operand.dtype)
        raise ExportError(f"an operand is {type(operand).__name__}, not a tensor")

    def plain(self, bits: Bits) -> Value:
        """Bits as floats of +-1."""
        if bits.plain is None:
            packed = self.packed(bits)
            bits.plain = self.emit("LceDequantize", [packed], bits.shape, custom=True)
        return bits.plain

    def packed(self, bits: Bits) -> int:
        """The tensor that holds the bits in words."""
        if bits.packed is None:
            assert bits.signs is not None
            bits.packed = self.quantize(bits.signs)
        return bits.packed

    def quantize(self, signs: Value) -> int:
        """LceQuantize of a float whose dimension 1 is packed."""
        signs = self.preferred(signs)
        tensor = self.builder.tensor(self.name, (*signs.stored[:-1], words(signs.stored[-1])), np.int32)
        self.builder.operator("LceQuantize", [signs.tensor], [tensor], custom=True)
        return tensor

    def preferred(self, operand: object) -> Value:
        """The operand in its preferred order: NHWC where it has four dimensions."""
        value = self.value(operand)
        return self.ordered(value, preferred_order(len(value.shape)))

    def ordered(self, value: Value, order: Order) -> Value:
        """The value with its data in `order`."""
        if value.order == order:
            return value
        data = self.builder.tensors[value.tensor].data
        if data is not None:
            turned = data.transpose([value.order.index(dim) for dim in order])
            return Value(self.builder.constant(turned, f"{self.name}/constant"), value.shape, order, value.dtype)
        key = (value.tensor, value.order, order)
        if key not in self._reordered:
            shape = value.shape
            if same_data(shape, value.order, order):
                self._reordered[key] = self._reshape(value, shape, order)
            else:
                places = [value.order.index(dim) for dim in order]
                inputs = [value.tensor, self.integers(places)]
                version = 1 if len(shape) <= 4 else 5
                self._reordered[key] = self.emit("TRANSPOSE", inputs, shape, order, value.dtype, version=version)
        return self._reordered[key]

    def view(self, value: Value, shape: Sequence[int]) -> Value:
        """The value read with another shape, as torch's `view` of a contiguous tensor."""
        shape = tuple(shape)
        plan = plan_view(value.shape, value.order, shape)
        source = value if value.order == plan.source else self.ordered(value, plan.source)
        if source.stored == stored_shape(shape, plan.target):
            return Value(source.tensor, shape, plan.target, value.dtype)
        return self._reshape(source, shape, plan.target)

    def _reshape(self, value: Value, shape: Shape, order: Order) -> Value:
        stored = stored_shape(shape, order)
        return self.emit("RESHAPE", [value, self.integers(stored)], shape, order, value.dtype, new_shape=stored)

    def permute(self, value: Value, dims: Sequence[int]) -> Value:
        """torch's `permute`: the data stays where it is."""
        dims = [dim % len(value.shape) for dim in dims]
        shape = tuple(value.shape[dim] for dim in dims)
        return Value(value.tensor, shape, permuted_order(value.order, dims), value.dtype)

    def copy(self, value: Value) -> Value:
        """The same data in a tensor of its own."""
        return self._reshape(value, value.shape, value.order)

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        if value.dtype == dtype:
            return value
        if dtype not in DTYPES:
            raise ExportError(f"it makes {dtype}, which the file cannot hold: keep values in float32")
        codes = [TENSOR_TYPES[np.dtype(DTYPES[each])] for each in (value.dtype, dtype)]
        return self.emit("CAST", [value], value.shape, value.order, dtype, in_type=codes[0], out_type=codes[1])

    def axis(self, value: Value, dim: int) -> int:
        """Where the file keeps this dimension of torch."""
        return value.order.index(dim % len(value.shape))

    def pad(self, value: Value, before: Sequence[int], after: Sequence[int], fill: float = 0.0) -> Value:
        """Constant padding, given per torch dimension; negative amounts crop."""
        if any(n < 0 for n in (*before, *after)):
            start = [max(-n, 0) for n in before]
            stop = [size - max(-n, 0) for size, n in zip(value.shape, after, strict=True)]
            value = self.crop(value, start, stop)
            before, after = [max(n, 0) for n in before], [max(n, 0) for n in after]
        if not any((*before, *after)):
            return value
        shape = tuple(b + size + a for b, size, a in zip(before, value.shape, after, strict=True))
        amounts = self.constant([[before[dim], after[dim]] for dim in value.order], np.int32)
        if fill == 0:
            return self.emit("PAD", [value, amounts], shape, value.order, value.dtype)
        filler = self.constant(fill, DTYPES[value.dtype])
        return self.emit("PADV2", [value, amounts, filler], shape, value.order, value.dtype)

    def crop(self, value: Value, start: Sequence[int], stop: Sequence[int], step: Sequence[int] | None = None) -> Value:
        """value[start:stop:step] in every torch dimension."""
        step = [1] * len(value.shape) if step is None else step
        bounds = zip(start, stop, step, strict=True)
        shape = tuple(len(range(*slice(*bound).indices(n))) for bound, n in zip(bounds, value.shape, strict=True))
        if shape == value.shape:
            return value
        inputs = [value.tensor] + [self.integers([given[dim] for dim in value.order]) for given in (start, stop, step)]
        return self.emit("STRIDED_SLICE", inputs, shape, value.order, value.dtype, version=1 if len(shape) <= 4 else 4)

    def concat(self, values: Sequence[Value], dim: int) -> Value:
        """Values of one order, joined along a torch dimension."""
        first = values[0]
        if len(values) == 1:
            return first
        shape = list(first.shape)
        shape[dim] = sum(value.shape[dim] for value in values)
        return self.emit("CONCATENATION", values, shape, first.order, first.dtype, axis=self.axis(first, dim))

    def tile(self, value: Value, repeats: Sequence[int]) -> Value:
        if all(n == 1 for n in repeats):
            return value
        shape = [size * n for size, n in zip(value.shape, repeats, strict=True)]
        inputs = [value.tensor, self.integers([repeats[dim] for dim in value.order])]
        return self.emit("TILE", inputs, shape, value.order, value.dtype)

    def gather(self, value: Value, indices: Sequence[int], dim: int) -> Value:
        """The elements at these indices of a torch dimension."""
        shape = list(value.shape)
        shape[dim] = len(indices)
        inputs = [value.tensor, self.integers(indices)]
        return self.emit("GATHER", inputs, shape, value.order, value.dtype, axis=self.axis(value, dim))

    def fuse_into_producer(self, operand: object, activation: Activation) -> bool:
        """Let the operator that computed the current node's operand apply the activation, if nobody else sees it."""
        source = self.node.args[0]
        if not isinstance(operand, Value) or not isinstance(source, Node) or len(source.users) != 1:
            return False
        fused = self.owners.get(operand.tensor) == [source] and self.builder.fuse_activation(operand.tensor, activation)
        if fused:
            self.absorbed.add(source)
        return fused
