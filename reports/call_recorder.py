"""Records what a network calls at its example inputs. Shapes are propagated; no data is computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from binmat.errors import TraceError, first_line
from binmat.model_defs.network import Example, Network
from binmat.nn import BinaryLayer
from binmat.nn.masked_path import MaskedPath
from binmat.nn.operators import Operator, Target, operator_of
from binmat.nn.recurrence import Recurrent
from binmat.transforms.collector import collector_waits
from binmat.transforms.parametrizations import without_parametrizations
from binmat.transforms.trace import CHECKS, graphs, trace
from binmat.transforms.traced_module import TracedModule
from binmat.transforms.tracer import trace_method
from binmat.transforms.tracing_lock import TRACING_LOCK


@dataclass(frozen=True)
class Call:
    """One call of a layer, function or method. Its tensors have shapes and no data.

    name: the layer's full name (``decoder.decode4.gru.ih.0``); for a function or a method, its node's name under the
    module that calls it (``refiner.mul_9``).
    parent: the module that has the layer.
    path: the masked path (:class:`binmat.nn.masked_path.MaskedPath`) that it is part of; empty outside of one.
    """

    name: str
    target: Target
    module: nn.Module | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    parent: nn.Module | None = None
    path: str = ""

    def argument(self, position: int, name: str) -> Any:
        """An argument, passed by position or by name; None where it was not passed."""
        return self.args[position] if position < len(self.args) else self.kwargs.get(name)

    @property
    def input(self) -> Tensor:
        """The first argument."""
        tensor: Tensor = self.argument(0, "input")
        return tensor

    @property
    def operator(self) -> Operator | None:
        """What is called, whatever its spelling; None where the table of operators does not have it."""
        return operator_of(self.target)


@collector_waits()
def record_calls(network: nn.Module, example: Example) -> list[Call]:
    """Every call of one frame, in order, in evaluation mode. The network is left as it was.

    The step of a recurrence and the layers of a masked path are recorded one by one; a masked path as if it were
    computed everywhere. Raises TraceError where the network cannot be traced, and where what it does depends on the
    values of tensors.
    """
    with TRACING_LOCK:
        return _record_calls(network, example)


def _record_calls(network: nn.Module, example: Example) -> list[Call]:
    owner = traced(network, example=example)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    inputs = [fake.from_tensor(v) if isinstance(v, Tensor) else v for v in example.inputs.values()]
    recorder = _Recorder(owner, graphs(owner)[example.mode], names=_first_names(owner))
    run = _Run(owner, recorder)
    # torch remembers the shapes of calls whose tensors are all fake: of each layer that comes again.
    tensors = [*run.named_parameters(), *run.named_buffers()]
    state: dict[str, Tensor] = {name: fake.from_tensor(tensor) for name, tensor in tensors}
    try:
        with torch.no_grad(), _evaluation(owner), fake:
            # Tied weights would come back wrong where a module has two names.
            functional_call(run, state, tuple(inputs), tie_weights=False)
    except TraceError:
        raise
    except Exception as error:
        reason = first_line(error)
        raise TraceError(f"{owner.name} cannot be counted at these sizes: at '{recorder.at}': {reason}") from error
    return recorder.calls


def traced(network: nn.Module, size: tuple[int, int] | None = None, example: Example | None = None) -> Network:
    """The network with its graphs, sharing its layers; the network itself is left as it was. Raises TraceError."""
    if isinstance(network, Network):
        # Tracing adds the graphs to the object it is given.
        network = copy.copy(network)
        network.programs = dict(network.programs)
        return trace(network)
    # The graph of evaluation is enough, and nothing runs on real data.
    with TRACING_LOCK:
        return TracedModule(without_parametrizations(network), size, example)


class _Recorder(fx.Interpreter):
    """Runs a graph and notes what each node called."""

    def __init__(
        self, root: nn.Module, graph: fx.Graph, *, names: Mapping[int, str], prefix: str = "", path: str = ""
    ) -> None:
        super().__init__(root, graph=graph)
        self.root = root
        self.names = names
        self.prefix = prefix
        self.path = path
        self.calls: list[Call] = []
        self.at = ""

    def run_node(self, n: fx.Node) -> Any:
        if n.op not in ("call_module", "call_function", "call_method") or n.target in CHECKS:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op != "call_module":
            self.at = self._path(_caller(n), n.name)
            output = super().run_node(n)
            self.calls.append(Call(self.at, n.target, None, args, kwargs, output, path=self.path))
            return output
        module = self.fetch_attr(str(n.target))
        self.at = self.names.get(id(module), self._path(str(n.target)))
        if isinstance(module, Recurrent):
            return self._look_into(module, "step", args, self.path)
        if isinstance(module, MaskedPath):
            return self._look_into(module, "dense", args, self.at)
        if isinstance(module, BinaryLayer):
            # The float layer that it derives from has the same shapes and far fewer operators.
            output = super(BinaryLayer, module).forward(*args, **kwargs)
        else:
            output = super().run_node(n)
        if type(module) is nn.Sequential:
            return output  # An empty one: others are traced through.
        parent = self.root.get_submodule(str(n.target).rpartition(".")[0])
        self.calls.append(Call(self.at, type(module), module, args, kwargs, output, parent, self.path))
        return output

    def _look_into(self, leaf: nn.Module, method: str, args: tuple[Any, ...], path: str) -> Any:
        name = self.at
        inner = _Recorder(leaf, trace_method(leaf, method, name), names=self.names, prefix=name, path=path)
        try:
            output = inner.run(*args)
        finally:
            self.at = inner.at or name
        self.calls += inner.calls
        return output

    def _path(self, *parts: str) -> str:
        return ".".join(part for part in (self.prefix, *parts) if part)


class _Run(nn.Module):
    """A recorder as a module, which can be called with other parameters."""

    def __init__(self, owner: Network, recorder: _Recorder) -> None:
        super().__init__()
        self.owner, self.recorder = owner, recorder

    def forward(self, *inputs: Any) -> None:
        self.recorder.run(*inputs)


def _caller(node: fx.Node) -> str:
    """The module whose code made this node."""
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""


def _first_names(owner: nn.Module) -> dict[int, str]:
    """Name of each layer, by identity; the first name of a layer that is registered twice."""
    return {id(module): name for name, module in owner.named_modules()}


@contextmanager
def _evaluation(owner: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in owner.modules()}
    owner.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
