"""Record one call of a module as a torch.fx graph, with the shapes, dtypes and devices of its tensors known.

The module runs for real, on fake tensors, which have everything but values. So code may branch on shapes and dtypes,
loop, call its arguments by name, work in place, and take and return any structure. What depends on the values of
tensors cannot be recorded.
"""

from __future__ import annotations

import copy
import inspect
import operator
import os
import random
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from binmat.errors import BinmatError, TraceError, first_line

from .call_structure import Structure, leaves_of, tensors_in
from .gradient_mode import check_gradients
from .part_calls import note_inputs, note_outputs
from .quiet_fake_tensors import quiet_fake_tensors
from .traced_number import NumberTracer, TracedNumber, plain
from .tracing_lock import TRACING_LOCK

_HERE = os.path.dirname(__file__)
_TORCH = os.path.dirname(inspect.getfile(torch))

#: Tensor methods and properties that give sizes.
_SIZES = ("shape", "size", "numel", "nelement")

#: Functions that make tensors of the default dtype from numbers.
_FACTORIES = (
    "arange", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "scalar_tensor", "tensor",
    "zeros",
)  # fmt: skip

#: Tensor's special methods as the functions that they stand for; True where the operands change places.
_SPECIAL: dict[str, tuple[Callable[..., Any], bool]] = {
    "__getitem__": (operator.getitem, False),
    "__setitem__": (operator.setitem, False),
    "__rsub__": (operator.sub, True),
    "__rdiv__": (operator.truediv, True),
    "__rtruediv__": (operator.truediv, True),
    "__rfloordiv__": (operator.floordiv, True),
    "__floordiv__": (operator.floordiv, False),
    "__rpow__": (operator.pow, True),
    "__rmod__": (operator.mod, True),
    "__rmatmul__": (operator.matmul, True),
    "__invert__": (operator.invert, False),
    **{f"__{name}__": (getattr(operator, f"__{name}__"), False) for name in ("and", "or", "xor", "eq", "ne")},
}


@dataclass(frozen=True)
class RecordedCall:
    """graph: its placeholders are the inputs, its output is a tuple of the tensors of the result.

    result: what the call returns, with fake tensors and traced numbers in it. constants: name -> tensor that the graph
    reads and that is not of the module.
    """

    graph: fx.Graph
    result: Any
    constants: dict[str, Tensor]


def record_call(
    module: nn.Module, call: Callable[[nn.Module, Sequence[Tensor]], Any], inputs: Mapping[str, Tensor], training: bool
) -> RecordedCall:
    """Record one call of a module, in training or in evaluation mode.

    call: runs the module on the inputs. inputs: name of the graph's placeholder -> tensor. The module is left as it is.

    Layers of torch.nn, of exactly these types, and layers that say ``is_leaf`` are called as modules; everything else
    is a function or a method. Parameters and buffers are read when the graph runs, and what is computed from them is
    computed then. Sizes are followed; where the code compares a size, the graph checks that it compares alike
    (:func:`binmat.transforms.traced_number.check_size`). A size that a loop or a string takes is a plain number, which
    the graph does not follow. Where the code asks whether gradients are on, the call is recorded with the other answer
    too; where that is another graph, the graph checks that the answer is the same
    (:func:`binmat.transforms.gradient_mode.check_gradients`). Raises TraceError that names the line.
    """
    with TRACING_LOCK:
        recorded = _record(module, call, inputs, training)
        checks = [node for node in recorded.graph.nodes if node.target is check_gradients]
        if checks and _answer_decides_nothing(recorded, partial(_record, module, call, inputs, training, True)):
            for node in checks:
                recorded.graph.erase_node(node)
        return recorded


def _answer_decides_nothing(recorded: RecordedCall, record_otherwise: Callable[[], RecordedCall]) -> bool:
    """Whether the call is the same one with the other answer to torch.is_grad_enabled()."""
    try:
        other = record_otherwise()
        Structure(recorded.result).tensors_of(other.result, "the result with the other answer")
    except BinmatError:
        return False
    code, other_code = (each.graph.python_code("self").src for each in (recorded, other))
    constants, others = ([id(value) for value in each.constants.values()] for each in (recorded, other))
    return code == other_code and constants == others


def _record(
    module: nn.Module,
    call: Callable[[nn.Module, Sequence[Tensor]], Any],
    inputs: Mapping[str, Tensor],
    training: bool,
    other_answer: bool = False,
) -> RecordedCall:
    """other_answer: the code that asks whether gradients are on hears the opposite."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with FakeCopyMode(fake):
            shadow = copy.deepcopy(module)
    except Exception as error:
        raise TraceError(f"{type(module).__name__} cannot be copied: {first_line(error)}") from error
    if shadow.training != training:
        shadow.train(training)
    with torch.set_grad_enabled(training):
        recorder = _Recorder(shadow, module, fake)
    chance = random.getstate()
    values = recorder.placeholders({name: fake.from_tensor(value.detach()) for name, value in inputs.items()})
    try:
        with torch.set_grad_enabled(training), quiet_fake_tensors(), fake, recorder.layers(other_answer), recorder:
            result = call(shadow, values)
            recorder.follow_contexts()
            for leaf in leaves_of(result):
                if isinstance(leaf, TracedNumber):
                    recorder.numbers.guard(leaf.node, leaf.value)
        if random.getstate() != chance:
            random.setstate(chance)
            raise TraceError(f"{type(module).__name__} draws from Python's random: draw from torch's")
        recorder.write_buffers()
        recorder.graph.output(recorder.argument(tuple(tensors_in(result))))
    except TraceError:
        raise
    except Exception as error:
        raise TraceError(_explain(error, module, recorder.failed_in)) from error
    return RecordedCall(recorder.graph, result, recorder.constants)


class _Recorder(TorchFunctionMode):
    """Sees every call of a torch function and makes its node; knows the node of every tensor."""

    def __init__(self, root: nn.Module, original: nn.Module, fake: FakeTensorMode) -> None:
        super().__init__()
        self.root = root
        self.graph = fx.Graph()
        self.numbers = NumberTracer(self.graph, lambda: line_of(sys._getframe()))
        self.nodes: dict[int, tuple[Tensor, fx.Node]] = {}
        #: The modules that are being called, and whether the last one is a node of its own.
        self.stack: list[str] = []
        self.in_leaf = False
        #: Where the last error came from.
        self.failed_in = ""
        #: What the root is a copy of, and the identities of its tensors.
        self.original, self.fake = original, fake
        self.originals = {id(value) for value in tensors_of(original).values()}
        self.calls: Counter[str] = Counter()
        self.paths = {id(child): name for name, child in root.named_modules()}
        self.state = {id(value): (value, name) for name, value in tensors_of(root).items()}
        self.constants: dict[str, Tensor] = {}
        #: The first floating-point tensor: the graph goes on with its dtype and device when they change.
        self.like: Tensor | None = next((p for p in root.parameters() if p.is_floating_point()), None)
        self._read: dict[str, fx.Node] = {}
        self._outside = self._inside = _contexts()
        self._autocast_node: fx.Node | None = None

    def placeholders(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        for name, value in inputs.items():
            self._bind(value, self.graph.placeholder(name))
        self.like = next((value for value in inputs.values() if value.is_floating_point()), self.like)
        return list(inputs.values())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = func.__self__.__name__
        elif name == "__set__" and func.__self__.__name__ == "data":
            raise TraceError(f"{line_of(sys._getframe())} sets .data of a tensor: use copy_")
        result = func(*plain(args), **plain(kwargs))
        if name in _SIZES:
            return self._sizes(args[0], result, (*args[1:], *kwargs.values()))
        if name == "__len__":
            self.numbers.guard(self._size(args[0], 0).node, result)
            return result
        if not tensors_in(result) and name != "__setitem__":
            return result
        self._record(func, name, args, kwargs, result)
        return result

    def _record(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        if getattr(func, "__name__", "") == "__get__":
            node = self._node("call_function", getattr, (args[0], name), {})
        elif name in _SPECIAL:
            function, swapped = _SPECIAL[name]
            node = self._node("call_function", function, tuple(reversed(args)) if swapped else args, kwargs)
        elif hasattr(Tensor, name) and inspect.unwrap(getattr(Tensor, name)) is inspect.unwrap(func):
            # Unwrapped, as Tensor.__pow__ is a wrapper of Tensor.pow and has its name.
            node = self._node("call_method", name, args, kwargs)
        else:
            if name in _FACTORIES and result.dtype is torch.get_default_dtype():
                kwargs = {**kwargs, "dtype": result.dtype}
            node = self._node("call_function", func, args, kwargs)
        self._bind(result, node)

    def _node(self, kind: str, target: Any, args: Any, kwargs: Any) -> fx.Node:
        if kind != "call_method" and not args and "input" in kwargs:
            # Passes look for a call's input by position, also where the code names it, as in conv(input=x).
            args, kwargs = (kwargs["input"],), {key: value for key, value in kwargs.items() if key != "input"}
        self.follow_contexts()
        node = self.graph.create_node(kind, target, self.argument(tuple(args)), self.argument(dict(kwargs)))
        node.meta["nn_module_stack"] = {path: (path, "") for path in self.stack if path}
        file, _, line = line_of(sys._getframe()).rpartition(":")
        node.stack_trace = f'File "{file}", line {line}, in forward'
        return node

    def _bind(self, value: Any, node: fx.Node) -> None:
        """Let a tensor, or each one of a structure, stand for its node. What works in place gives it a new one."""
        if isinstance(value, Tensor):
            self.nodes[id(value)] = (value, node)
        elif isinstance(value, (tuple, list)):
            for index, part in enumerate(value):
                if isinstance(part, (Tensor, tuple, list)):
                    self._bind(part, self.graph.call_function(operator.getitem, (node, index)))
        elif isinstance(value, Mapping):
            for key, part in value.items():
                self._bind(part, self.graph.call_function(operator.getitem, (node, key)))

    def argument(self, value: Any) -> Any:
        """A value as an argument of a node."""
        if isinstance(value, Tensor):
            return self._node_of(value)
        if isinstance(value, TracedNumber):
            return value.node if value.tracer is self.numbers else plain(value)
        if self.like is not None and isinstance(value, (torch.dtype, torch.device)):
            name = "dtype" if isinstance(value, torch.dtype) else "device"
            return self._read_from_input(name) if value == getattr(self.like, name) else value
        if isinstance(value, slice):
            return slice(*map(self.argument, (value.start, value.stop, value.step)))
        if isinstance(value, (tuple, list)):
            parts = [self.argument(part) for part in value]
            return tuple(parts) if isinstance(value, tuple) else parts
        if isinstance(value, Mapping):
            return {key: self.argument(part) for key, part in value.items()}
        return value

    def _node_of(self, value: Tensor) -> fx.Node:
        if id(value) not in self.nodes:
            found = self.state.get(id(value))
            self._bind(value, self.graph.get_attr(found[1] if found else self._constant(value)))
        return self.nodes[id(value)][1]

    def _read_from_input(self, name: str) -> fx.Node:
        if name not in self._read:
            assert self.like is not None
            self._read[name] = self.graph.call_function(getattr, (self._node_of(self.like), name))
        return self._read[name]

    def _constant(self, value: Tensor) -> str:
        """A tensor that code outside the module made before the call."""
        if isinstance(value, FakeTensor):
            raise TraceError(
                f"{line_of(sys._getframe())}: a tensor of shape {list(value.shape)} comes from calls that cannot be "
                "recorded (a script function, a compiled module, a list or dictionary of tensors): call torch "
                "functions and modules, and keep tensors as buffers"
            )
        if id(value) in self.originals:
            raise TraceError(
                f"{line_of(sys._getframe())}: the code reaches a tensor of the module by another way than the module, "
                "as a lambda over self does: a copy of the module would still use the original's. Make it a method"
            )
        name = f"_constant{len(self.constants)}"
        self.constants[name] = value
        return name

    def _sizes(self, tensor: Tensor, result: Any, index: Any) -> Any:
        if isinstance(result, torch.Size):
            sizes: list[Any] = [self._size(tensor, i) for i in range(len(result))]
            return torch.Size(sizes)
        if index:
            return self._size(tensor, int(index[0]) % tensor.dim())
        node = self._node_of(tensor)
        return self.numbers.number(result, lambda: self.graph.call_method("numel", (node,)))

    def _size(self, tensor: Tensor, index: int) -> TracedNumber:
        node = self._node_of(tensor)

        def make() -> fx.Node:
            shape = self.graph.call_function(getattr, (node, "shape"))
            return self.graph.call_function(operator.getitem, (shape, index))

        return self.numbers.number(tensor.shape[index], make)

    @contextmanager
    def layers(self, other_answer: bool) -> Iterator[None]:
        """While it lasts, a call of a layer of torch.nn makes one node, and so does torch.is_grad_enabled()."""
        original = nn.Module.__call__

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = self.paths.get(id(module))
            if path is None or self.in_leaf:
                return original(module, *args, **kwargs)
            if path:
                note_inputs(path, self.calls[path], (args, kwargs), self._noted_node)
            self.stack.append(path)
            self.in_leaf = bool(path) and is_leaf_layer(module)
            leaf = self.in_leaf
            try:
                if leaf:
                    with torch._C.DisableTorchFunction():
                        try:
                            result = original(module, *plain(args), **plain(kwargs))
                        except (DataDependentOutputException, DynamicOutputShapeException):
                            result = self._run_for_real(path, plain(args), plain(kwargs))
                    self._bind(result, self._node("call_module", path, args, kwargs))
                else:
                    result = original(module, *args, **kwargs)
            except Exception:
                self.failed_in = self.failed_in or path
                raise
            finally:
                self.in_leaf = False
                self.stack.pop()
            if path:
                note_outputs(path, self.calls[path], result, self._tensor_node)
                self.calls[path] += 1
            return result

        asks, thread = torch.is_grad_enabled, threading.get_ident()

        def is_grad_enabled() -> bool:
            enabled, frame = asks(), sys._getframe(1)
            # Inside its own no_grad or enable_grad the code knows the answer.
            own = not frame.f_code.co_filename.startswith((_TORCH, _HERE))
            asked = own and not self.in_leaf and enabled == self._outside[0]
            if asked and threading.get_ident() == thread:
                self.follow_contexts()
                self.graph.call_function(check_gradients, (enabled, line_of(frame)))
                return enabled != other_answer
            return enabled

        with patch.object(nn.Module, "__call__", call), patch.object(torch, "is_grad_enabled", is_grad_enabled):
            yield

    def _tensor_node(self, leaf: Any) -> fx.Node | None:
        return self.nodes.get(id(leaf), (None, None))[1]

    def _noted_node(self, leaf: Any) -> fx.Node | None:
        traced = isinstance(leaf, TracedNumber) and leaf.tracer is self.numbers
        return leaf.node if traced else self._tensor_node(leaf)

    def _run_for_real(self, path: str, args: Any, kwargs: Any) -> Any:
        """What a leaf whose code decides by values returns for zeros: the shapes are what counts."""

        def real(leaf: Any) -> Any:
            return torch.zeros(leaf.shape, dtype=leaf.dtype) if isinstance(leaf, Tensor) else leaf

        fake = self.fake
        with unset_fake_temporarily():
            leaf = copy.deepcopy(self.original.get_submodule(path)).train(self.root.training)
            result = leaf(*pytree.tree_map(real, args), **pytree.tree_map(real, kwargs))
        return pytree.tree_map(lambda part: fake.from_tensor(part) if isinstance(part, Tensor) else part, result)

    def follow_contexts(self) -> None:
        """Enter and leave autocast and no_grad where the code did."""
        before, self._inside = self._inside, _contexts()
        grad, dtype, autocast = self._inside
        if (dtype, autocast) != before[1:]:
            if self._autocast_node is not None:
                self.graph.call_function(_exit_autocast, (self._autocast_node,))
                self._autocast_node = None
            if (dtype, autocast) != self._outside[1:]:
                self._autocast_node = self.graph.call_function(_enter_autocast, ("cpu", dtype, autocast, True))
        if grad != before[0] and self.root.training:
            self.graph.call_function(torch._C._set_grad_enabled, (grad,))

    def write_buffers(self) -> None:
        """A buffer that the call gave a new tensor is written at the end."""
        for name, value in self.root.named_buffers():
            if id(value) not in self.state:
                read = self.graph.get_attr(name)
                self.graph.call_method("copy_", (read, self._node_of(value)))


def _contexts() -> tuple[bool, torch.dtype, bool]:
    """Whether gradients are on; dtype of autocast, and whether it is on."""
    return torch.is_grad_enabled(), torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")


def is_leaf_layer(module: nn.Module) -> bool:
    """Whether a call of the module is one node: torch.nn's own layers of exactly that type, and what says is_leaf."""
    if getattr(module, "is_leaf", False):
        return True
    kind = type(module)
    own = kind.__module__.startswith("torch.nn.modules.") and "forward" not in vars(module)
    return own and (isinstance(module, nn.MultiheadAttention) or next(module.children(), None) is None)


def line_of(frame: Any) -> str:
    """File and line of the network's code that a frame runs."""
    while frame is not None:
        name = frame.f_code.co_filename
        if not _is_machinery(name):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "the network"


def _is_machinery(filename: str) -> bool:
    return filename.startswith((_TORCH, _HERE, "<")) or filename.endswith(("contextlib.py", "unittest/mock.py"))


def tensors_of(root: nn.Module, recurse: bool = True) -> dict[str, Tensor]:
    """Parameters, buffers and plain tensor attributes by name; without recurse the root's own."""
    found: dict[str, Tensor] = {}
    for path, module in root.named_modules() if recurse else [("", root)]:
        own = {**vars(module), **module._parameters, **module._buffers}
        prefix = f"{path}." if path else ""
        found |= {f"{prefix}{key}": value for key, value in own.items() if isinstance(value, Tensor)}
    return found


def _explain(error: Exception, module: nn.Module, part: str) -> str:
    where = f"{type(module).__name__}.forward" + (f", in '{part}'" if part else "")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not _is_machinery(frame.filename):
            where = f"{where}, at {frame.filename}:{frame.lineno}: {frame.line}"
            break
    if isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)):
        return (
            f"cannot trace {where} (it needs the values of a tensor: {error}). Make the line independent of "
            "tensor values, or move it into a submodule with the class attribute is_leaf = True"
        )
    return f"{where}: {type(error).__name__}: {first_line(error)}"
