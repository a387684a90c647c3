"""Adds operators to the model for the node that is being written, and converts values between orders and types."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from binmat.backends.lce.decomposition import decompose
from binmat.backends.lce.layout import Order, Shape, permuted_order, plan_view, preferred_order, same_data, stored_shape
from binmat.backends.lce.tflite.builder import ModelBuilder
from binmat.backends.lce.tflite.schema import TENSOR_TYPES, Activation, TensorType
from binmat.backends.lce.values import DTYPES, Bits, Value
from binmat.errors import ExportError
from binmat.transforms.lowering.sign_packing import words

#: Operator -> what writes it.
RULES: dict[object, Callable[..., Any]] = {}

#: Operators whose result depends on the shape of their operand alone.
_SHAPE_ONLY = {
    torch.ops.aten.zeros_like.default,
    torch.ops.aten.ones_like.default,
    torch.ops.aten.full_like.default,
    torch.ops.aten.new_zeros.default,
    torch.ops.aten.new_ones.default,
    torch.ops.aten.new_full.default,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
}
#: What they hold is overwritten; zeros keep the file the same each time.
_EMPTY = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.empty_permuted.default,
}

#: Float types that the file computes in float32. float16 values are rounded to float16 after each operator.
_WIDER_OR_NARROWER = (torch.float64, torch.float16)

#: TFLite's limits.
_LONGEST_SLICE = 5
_LONGEST_TRANSPOSE = 6

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


def file_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which the file holds what torch computes in `dtype`."""
    return torch.float32 if dtype in _WIDER_OR_NARROWER else dtype


def _arguments(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Every argument of the operator's schema in order."""
    if not hasattr(target, "_schema"):
        return list(args)
    rest = target._schema.arguments[len(args) :]
    return [*args, *(kwargs.get(argument.name, argument.default_value) for argument in rest)]


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
        return file_dtype(self.node.meta["val"].dtype)

    def compute(self, node: Node, results: Mapping[Node, Any]) -> Any:
        """What a node becomes: computed now if it is constant, else written by its rule, else by torch's decomposition.

        results: of the nodes that it reads. Raises ExportError where it has no exact counterpart.
        """
        self.node = node
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: results[n])
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise ExportError("it draws random numbers: put the network in eval mode")
        leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Value | Bits | torch.Tensor)]
        if node.target in _SHAPE_ONLY:
            source = node.args[0].meta["val"]
            args = (torch.empty(source.shape, dtype=source.dtype), *args[1:])
            leaves = []
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.numel() == 0:
            return torch.zeros(value.shape, dtype=value.dtype)
        if all(isinstance(leaf, torch.Tensor) for leaf in leaves):
            with torch.no_grad():
                constant = node.target(*args, **kwargs)  # type: ignore[operator]
            return torch.zeros_like(constant) if node.target in _EMPTY else constant
        if getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            raise ExportError("it changes its operand in place: functionalize the graph when lowering")
        arguments = _arguments(node.target, args, kwargs)
        rule = RULES.get(node.target)
        result = self._decomposed(arguments) if rule is None else rule(self, *arguments)
        self.node = node
        if isinstance(result, Value):
            if node.meta["val"].dtype == torch.float16:
                result = self._rounded_to_float16(result)
            self.owners.setdefault(result.tensor, []).append(node)
        return result

    def _decomposed(self, arguments: Sequence[Any]) -> Any:
        """The current node by the operators that torch's own tables decompose it into."""
        name, node = self.name, self.node
        operands = [leaf for leaf in pytree.tree_leaves(list(arguments)) if isinstance(leaf, Value | Bits)]
        graph = decompose(node.target, arguments, operands)
        if graph is None:
            raise ExportError("there is no exact counterpart in TFLite: keep this operator out of the exported part")
        results: dict[Node, Any] = {}
        for inner in graph.graph.nodes:
            if inner.op == "placeholder":
                results[inner] = operands[len(results)]
            elif inner.op == "get_attr":
                results[inner] = getattr(graph, str(inner.target)).detach()
            elif inner.op == "output":
                return torch.fx.node.map_arg(inner.args[0], lambda n: results[n])
            elif inner.users:
                inner.meta["layer"] = name
                try:
                    results[inner] = self.compute(inner, results)
                except ExportError as error:
                    raise ExportError(f"torch writes it with {inner.target}, and there {error}") from error
        raise AssertionError("a graph has an output")

    def _rounded_to_float16(self, value: Value) -> Value:
        half = TENSOR_TYPES[np.dtype(np.float16)]
        narrow = self.builder.tensor(self.name, value.stored, np.float16)
        self.builder.operator("CAST", [value.tensor], [narrow], in_type=TensorType.FLOAT32, out_type=half)
        shape, order = value.shape, value.order
        return self.emit("CAST", [narrow], shape, order, in_type=half, out_type=TensorType.FLOAT32)

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
        values = tuple(self.tensor_value(part, order, dtype) for part in parts)
        indices = [operand.tensor if isinstance(operand, Value) else operand for operand in inputs]
        self.builder.operator(kind, indices, [value.tensor for value in values], **options)
        return values

    def tensor_value(self, shape: Shape, order: Order, dtype: torch.dtype) -> Value:
        """A new tensor for what an operator computes."""
        return Value(self.builder.tensor(self.name, stored_shape(shape, order), DTYPES[dtype]), shape, order, dtype)

    def constant(self, array: Any, dtype: type[np.generic] = np.float32) -> int:
        return self.builder.constant(np.asarray(array, dtype=dtype), f"{self.name}/constant")

    def integers(self, values: Sequence[int]) -> int:
        """A constant vector of int32: axes, shapes, paddings."""
        return self.constant(values, np.int32)

    def tensor_constant(self, value: torch.Tensor, order: Order) -> int:
        """A constant in the given order; dimensions of size 1 in front are dropped, broadcasting brings them back."""
        array = value.detach().cpu().to(file_dtype(value.dtype)).numpy()
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
            order, dtype = preferred_order(operand.dim()), file_dtype(operand.dtype)
            array = operand.detach().cpu().to(dtype).numpy().transpose(order)
            tensor = self.builder.constant(array, f"{self.name}/constant")
            return Value(tensor, tuple(operand.shape), order, dtype)
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
            elif len(shape) > _LONGEST_TRANSPOSE:
                self._reordered[key] = self._transpose_merged(value, order)
            else:
                places = [value.order.index(dim) for dim in order]
                inputs = [value.tensor, self.integers(places)]
                version = 1 if len(shape) <= 4 else 5
                self._reordered[key] = self.emit("TRANSPOSE", inputs, shape, order, value.dtype, version=version)
        return self._reordered[key]

    def _transpose_merged(self, value: Value, order: Order) -> Value:
        """A transposition of more dimensions than TFLite takes: those that stay side by side are moved as one."""
        sequence = [dim for dim in value.order if value.shape[dim] != 1]
        runs: list[list[int]] = []
        for dim in (dim for dim in order if value.shape[dim] != 1):
            if runs and sequence.index(dim) == sequence.index(runs[-1][-1]) + 1:
                runs[-1].append(dim)
            else:
                runs.append([dim])
        if len(runs) > _LONGEST_TRANSPOSE:
            raise ExportError(f"it moves {len(runs)} dimensions at once and TFLite {_LONGEST_TRANSPOSE}: use two steps")
        before = sorted(range(len(runs)), key=lambda index: sequence.index(runs[index][0]))
        sizes = [math.prod(value.shape[dim] for dim in run) for run in runs]
        identity = tuple(range(len(runs)))
        merged = self.stored_view(value, [sizes[index] for index in before])
        places = self.integers([before.index(index) for index in identity])
        version = 1 if len(runs) <= 4 else 5
        moved = self.emit("TRANSPOSE", [merged, places], sizes, identity, value.dtype, version=version)
        return self._reshape(moved, value.shape, order)

    def restored(self, value: Value, shape: Shape, order: Order) -> Value:
        """The value's data, read as this shape in this order."""
        return self._reshape(value, shape, order)

    def stored_tensor(self, tensor: int, shape: Shape) -> int:
        """A tensor as the file holds it with another shape, or, if that has more elements, repeated to fill it."""
        old = self.builder.tensors[tensor]
        if old.shape == shape:
            return tensor
        repeated = math.prod(old.shape) != math.prod(shape)
        if old.data is not None:
            data = np.broadcast_to(old.data, shape) if repeated else old.data.reshape(shape)
            return self.builder.constant(data, f"{self.name}/constant")
        result = self.builder.tensor(self.name, shape, old.dtype)
        if repeated:
            repeats = [new // size for new, size in zip(shape, old.shape, strict=True)]
            self.builder.operator("TILE", [tensor, self.integers(repeats)], [result])
        else:
            self.builder.operator("RESHAPE", [tensor, self.integers(shape)], [result], new_shape=shape)
        return result

    def stored_view(self, value: Value, stored: Sequence[int]) -> Value:
        """The data as the file holds it, with another shape; torch's shape and the file's are then the same."""
        return self._reshape(value, tuple(stored), tuple(range(len(stored))))

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
        dtype = file_dtype(dtype)
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
        if len(value.shape) > _LONGEST_SLICE:
            for dim, (front, back) in enumerate(zip(before, after, strict=True)):
                along = self._around(value, dim)
                padded = self.pad(along, [0, front, 0], [0, back, 0], fill)
                value = self._with_size(value, dim, padded)
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
        if shape == value.shape and all(n == 1 for n in step):
            return value
        if len(shape) > _LONGEST_SLICE:
            for dim, (low, high, by) in enumerate(zip(start, stop, step, strict=True)):
                along = self._around(value, dim)
                cut = self.crop(along, [0, low, 0], [along.shape[0], high, along.shape[2]], [1, by, 1])
                value = self._with_size(value, dim, cut)
            return value
        inputs = [value.tensor] + [self.integers([given[dim] for dim in value.order]) for given in (start, stop, step)]
        return self.emit("STRIDED_SLICE", inputs, shape, value.order, value.dtype, version=1 if len(shape) <= 4 else 4)

    def _around(self, value: Value, dim: int) -> Value:
        """The stored data as [what stands before a torch dimension, it, what stands behind it]."""
        place = value.order.index(dim)
        stored = value.stored
        return self.stored_view(value, (math.prod(stored[:place]), stored[place], math.prod(stored[place + 1 :])))

    def _with_size(self, value: Value, dim: int, along: Value) -> Value:
        """What `_around` made of the value, its dimension `dim` of another size by now, as it was."""
        shape = (*value.shape[:dim], along.shape[1], *value.shape[dim + 1 :])
        return self._reshape(along, shape, value.order)

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
        dim %= len(value.shape)
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
