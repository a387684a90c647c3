"""What make_fx records of one frame of a network: ATen operators and two binary ones, before anything is folded."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils._pytree import tree_map_only

from binmat.errors import LoweringError
from binmat.model_defs.network import Example, Network
from binmat.nn import BinaryConv2d, BinaryLinear
from binmat.transforms.collector import collector_waits
from binmat.transforms.program import Program
from binmat.transforms.quiet_fake_tensors import quiet_fake_tensors
from binmat.transforms.swap import swap
from binmat.transforms.trace import trace
from binmat.transforms.tracing_lock import TRACING_LOCK

from . import binary_operators  # noqa: F401  (registers the operators)
from .constants import add_constant
from .decompositions import decompositions
from .one_float_type import OneFloatType
from .refuse import cannot_lower, refuse_changes

_RECORDED = torch.float32


@dataclass(frozen=True)
class Recording:
    """One frame of a network in evaluation mode, every float in float32.

    name: of the network. module: its first inputs are the network's parameters and buffers, with what its binary layers
    deploy; the others are the tensors of the example. exact: the same in float64, where the code makes constants, such
    as ``torch.tensor(0.1)``, that float32 rounds. constants: the parameters and buffers, by name. tensors: names of the
    example's tensors.
    """

    name: str
    network: nn.Module
    example: Example
    module: fx.GraphModule
    exact: fx.GraphModule | None
    constants: Mapping[str, Tensor] = field(repr=False)
    tensors: tuple[str, ...]

    def bound(self, dtype: torch.dtype) -> fx.GraphModule:
        """A copy of the graph with the constants in it, and all floats in this type, float32 or float64.

        In float64 what a layer deploys is computed in float64 too: scales, and thresholds that are sums.
        """
        recorded, constants = self.module, self.constants
        if dtype != _RECORDED:
            recorded = self.exact or recorded
            constants = _constants(_evaluated(self.network, dtype))
        graph = copy.deepcopy(recorded.graph)
        if dtype != _RECORDED and self.exact is None:
            _convert(graph, dtype)
        module = fx.GraphModule(recorded, graph)
        placeholders = graph.find_nodes(op="placeholder")[: len(constants)]
        for node, name in zip(placeholders, self.constants, strict=True):
            if node.users:
                node.replace_all_uses_with(add_constant(module, node, constants[name]))
            graph.erase_node(node)
        return module


def record(network: nn.Module, example: Example) -> Recording:
    """Run a network, in evaluation mode, at the sizes of its example inputs, on tensors without values.

    Every float is float32, whatever type the network casts to. Outputs that the network has names for and the example
    does not name (a sparse decoder's side outputs) are left out. Operators that work in place become those that do not,
    and :mod:`binmat.transforms.lowering.decompositions` says which ones become simpler ones. Raises LoweringError.
    """
    with TRACING_LOCK, collector_waits():
        owner = _evaluated(network, _RECORDED)
        constants = _constants(owner)
        module = _record(owner, example, _RECORDED)
        literals = any(value.is_floating_point() for value in module.buffers())
        exact = _record(_evaluated(network, torch.float64), example, torch.float64) if literals else None
        tensors = tuple(name for name, value in example.inputs.items() if isinstance(value, Tensor))
        return Recording(owner.name, network, example, module, exact, constants, tensors)


def _record(owner: Network, example: Example, dtype: torch.dtype) -> fx.GraphModule:
    _name_layers(owner)
    constants = _constants(owner)
    tensors = {name: value for name, value in example.inputs.items() if isinstance(value, Tensor)}
    tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    program = owner.programs[example.mode]
    assert isinstance(program, Program)
    run = _Run(owner, program.graph)

    def frame(*values: Tensor) -> tuple[Tensor, ...]:
        state = {f"owner.{name}": value for name, value in zip(constants, values, strict=False)}
        bound = dict(zip(tensors, values[len(constants) :], strict=True))
        arguments = [bound.get(name, value) for name, value in example.inputs.items()]
        with OneFloatType(dtype):
            result = functional_call(run, state, tuple(arguments))
        refuse_changes(owner.name, state)
        return _asked_for(owner, example, tuple(result) if isinstance(result, (tuple, list)) else (result,))

    try:
        with torch.no_grad(), quiet_fake_tensors(), _plain_kernels():
            functional = dispatch_functionalize(frame, FunctionalTensorMode())
            make = make_fx(functional, decompositions(), tracing_mode="fake", _allow_non_fake_inputs=True)
            return make(*constants.values(), *tensors.values())
    except LoweringError:
        raise
    except Exception as error:
        raise cannot_lower(owner.name, tensors, error, run.current) from error


def _evaluated(network: nn.Module, dtype: torch.dtype) -> Network:
    """A copy in evaluation mode and of this type, with binary layers that are recorded as two operators."""
    owner = trace(copy.deepcopy(network)).eval()
    names: dict[Tensor, list[str]] = {}
    for name, buffer in owner.named_buffers(remove_duplicate=False):
        names.setdefault(buffer, []).append(name)
    owner.to(dtype)
    # torch converts a buffer under each of its names, and then they are several.
    for first, *others in names.values():
        for name in others:
            parent, _, attribute = name.rpartition(".")
            setattr(owner.get_submodule(parent), attribute, owner.get_buffer(first))
    _swap_binary_layers(owner)
    return owner


def _constants(owner: Network) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in [*owner.named_parameters(), *owner.named_buffers()]}


def _convert(graph: fx.Graph, dtype: torch.dtype) -> None:
    """Let a graph that was recorded in float32 compute in another float type."""

    def converted(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return dtype if value == _RECORDED else value
        return value.to(dtype) if value.is_floating_point() else value

    for node in graph.nodes:
        node.args, node.kwargs = tree_map_only(torch.dtype, converted, (node.args, node.kwargs))
        if "val" in node.meta:
            node.meta["val"] = tree_map_only(Tensor, converted, node.meta["val"])


def _asked_for(network: Network, example: Example, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Those of a mode's results that the example names; all of them where the network has no names for them."""
    names = network.output_names(example.mode)
    if names is None or not set(example.outputs) <= set(names):
        return results
    known = dict(zip(names, results, strict=True))
    return tuple(known[name] for name in example.outputs)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Attention and recurrent layers in steps, not in the CPU's fused kernels."""
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    onednn = torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)
        torch.backends.mha.set_fastpath_enabled(fast_attention)


class _Run(nn.Module):
    """One frame of a network by the graph of a mode. current: the node that runs, or ran last."""

    current: fx.Node | None = None

    def __init__(self, owner: Network, graph: fx.Graph) -> None:
        super().__init__()
        self.owner, self.graph = owner, graph

    def forward(self, *arguments: Any) -> Any:
        return _Recorder(self).run(*arguments)


class _Recorder(fx.Interpreter):
    """Marks what make_fx records for each call of the graph.

    The marks are the call's place in the user's code and, for functions and methods, the node's name as the layer.
    """

    def __init__(self, run: _Run) -> None:
        super().__init__(run.owner, graph=run.graph)
        self.frame = run

    def run_node(self, n: fx.Node) -> Any:
        self.frame.current = n
        mark = _Mark(stack_trace=n.stack_trace, layer=None if n.op == "call_module" else n.name)
        mark.start()
        result = super().run_node(n)
        mark.stop()
        return result


def _name_layers(owner: nn.Module) -> None:
    """Let every layer, also inside a recurrence, mark what make_fx records while it runs."""
    for name, layer in owner.named_modules():
        if name:
            mark = _Mark(layer=name)
            layer.register_forward_pre_hook(lambda *_, mark=mark: mark.start())
            layer.register_forward_hook(lambda *_, mark=mark: mark.stop())


class _Mark:
    """Gives every node that is recorded between start and stop those of the values that it does not have yet."""

    def __init__(self, **values: str | None) -> None:
        self.values = {key: value for key, value in values.items() if value is not None}

    def start(self) -> None:
        mode = get_proxy_mode()
        assert mode is not None
        self.graph: fx.Graph = mode.tracer.graph
        self.before = len(self.graph.nodes)

    def stop(self) -> None:
        recorded = len(self.graph.nodes) - self.before
        for node, _ in zip(reversed(self.graph.nodes), range(recorded), strict=False):
            node.meta.update(self.values | node.meta)


class _LoweredBinary(nn.Module):
    """A binary layer as the two operators of the lowered graph; a linear one is a 1x1 convolution of its rows.

    weight, bias: the layer's own, for code that reads them without calling the layer.
    """

    def __init__(self, layer: BinaryConv2d | BinaryLinear) -> None:
        super().__init__()
        self.layer: BinaryConv2d | BinaryLinear = layer
        self.weight, self.bias = layer.weight, layer.bias
        deployed = layer.deployed()
        self.pad_value = deployed.pad_value
        self.register_buffer("signs", deployed.weight.reshape(*layer.weight.shape, *[1] * (4 - layer.weight.dim())))
        self.register_buffer("threshold", deployed.threshold)
        self.register_buffer("multiplier", deployed.multiplier)
        self.register_buffer("added", deployed.bias)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, BinaryLinear):
            images = x.reshape(-1, x.shape[-1], 1, 1)
            geometry: tuple[Any, ...] = ([1, 1], [0, 0], [1, 1], 1)
        else:
            images = x if x.dim() == 4 else x.unsqueeze(0)
            geometry = (list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups)
        bits = torch.ops.binmat.binarize(images, self.threshold)
        y = torch.ops.binmat.binary_conv2d(bits, self.signs, self.multiplier, self.added, *geometry, self.pad_value)
        if isinstance(layer, BinaryLinear):
            y = y.reshape(*x.shape[:-1], -1)
        elif x.dim() != 4:
            y = y.squeeze(0)
        if layer.scheme.input_scale_map:
            y = y * layer.input_scale(x, layer.product)
            y = y if layer.bias is None else y + layer.per_channel(layer.bias)
        return y


def _swap_binary_layers(owner: nn.Module) -> None:
    binary = {n: m for n, m in owner.named_modules() if isinstance(m, (BinaryConv2d, BinaryLinear))}
    swap(owner, {name: _LoweredBinary(layer) for name, layer in binary.items()})
