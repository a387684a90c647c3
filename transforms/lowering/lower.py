"""From a network to its lowered graph: one frame, fixed shapes, ATen operators and two binary ones."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from binmat.errors import LoweringError
from binmat.model_defs.network import Example, Network
from binmat.nn import BinaryConv2d, BinaryLinear
from binmat.transforms.collector import collector_waits
from binmat.transforms.graph_pass import GraphPass
from binmat.transforms.program import Program
from binmat.transforms.quiet_fake_tensors import quiet_fake_tensors
from binmat.transforms.swap import swap
from binmat.transforms.trace import trace
from binmat.transforms.tracing_lock import TRACING_LOCK

from . import binary_operators  # noqa: F401  (registers the operators)
from .constants import add_constant
from .decompositions import decompositions
from .fold_affine import FoldAffine
from .fold_constants import FoldConstants
from .lowered_graph import LoweredGraph
from .one_float_type import OneFloatType
from .refuse import cannot_lower, refuse_changes, refuse_random, refuse_unfixed
from .remove_noops import RemoveNoOps

#: What is done to a lowered graph, in order.
LOWERING_PASSES: tuple[type[GraphPass[fx.GraphModule]], ...] = (RemoveNoOps, FoldConstants, FoldAffine)


def lower(network: nn.Module, example: Example, dtype: torch.dtype = torch.float32) -> LoweredGraph:
    """Flatten a network, in evaluation mode, at the sizes of its example inputs.

    Batch norm, scales and biases are folded into the convolutions (in float64); DoReFa's {0, 1} activations become
    +-1 with the sums corrected exactly; XNOR-Net's K map stays as float operators. The result computes what
    ``network.eval()`` computes, up to the rounding of ``dtype``: every float has this type, whatever type the network
    casts to; integers and booleans keep theirs. Outputs that the network has names for and the example does not name (a
    sparse decoder's side outputs) are left out of the graph. Operators that work in place become those that do not, and
    :mod:`binmat.transforms.lowering.decompositions` says which ones become simpler ones. Raises LoweringError.
    """
    with TRACING_LOCK, collector_waits():
        return _lower(network, example, dtype)


def _lower(network: nn.Module, example: Example, dtype: torch.dtype) -> LoweredGraph:
    owner = trace(copy.deepcopy(network)).eval().to(dtype)
    _swap_binary_layers(owner)
    _name_layers(owner)
    program = owner.programs[example.mode]
    assert isinstance(program, Program)
    tensors = {name: value for name, value in example.inputs.items() if isinstance(value, Tensor)}
    tensors = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    run = _Run(owner, program.graph)
    constants = {name: value.detach() for name, value in [*run.named_parameters(), *run.named_buffers()]}

    def frame(*values: Tensor) -> tuple[Tensor, ...]:
        state = dict(zip(constants, values, strict=False))
        bound = dict(zip(tensors, values[len(constants) :], strict=True))
        arguments = [bound.get(name, value) for name, value in example.inputs.items()]
        with OneFloatType(dtype):
            result = functional_call(run, state, tuple(arguments))
        refuse_changes(owner.name, state)
        return _asked_for(owner, example, tuple(result) if isinstance(result, (tuple, list)) else (result,))

    try:
        with torch.no_grad(), quiet_fake_tensors(), _plain_kernels():
            functional = dispatch_functionalize(frame, FunctionalTensorMode())
            record = make_fx(functional, decompositions(), tracing_mode="fake", _allow_non_fake_inputs=True)
            module = record(*constants.values(), *tensors.values())
    except LoweringError:
        raise
    except Exception as error:
        raise cannot_lower(owner.name, tensors, error, run.current) from error
    _bind(module, constants.values())
    refuse_random(owner.name, module.graph)
    with _plain_kernels():
        for lowering_pass in LOWERING_PASSES:
            lowering_pass().apply(module)
    refuse_unfixed(owner.name, module.graph)
    results = module.graph.output_node().args[0]
    assert isinstance(results, (tuple, list))
    if len(example.outputs) != len(results):
        raise LoweringError(
            f"{owner.name} returns {len(results)} tensors in mode {example.mode} and its example names "
            f"{len(example.outputs)}: name every output"
        )
    return LoweredGraph(module, tuple(tensors), example.outputs)


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


def _bind(module: fx.GraphModule, values: Iterable[Tensor]) -> None:
    """Make constants of the first inputs of the graph."""
    for node, value in zip(module.graph.find_nodes(op="placeholder"), values, strict=False):
        if node.users:
            node.replace_all_uses_with(add_constant(module, node, value))
        module.graph.erase_node(node)


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
        self.deployed = layer.deployed()
        self.signs = self.deployed.weight.reshape(*layer.weight.shape, *[1] * (4 - layer.weight.dim()))

    def forward(self, x: Tensor) -> Tensor:
        layer, deployed = self.layer, self.deployed
        if isinstance(layer, BinaryLinear):
            images = x.reshape(-1, x.shape[-1], 1, 1)
            geometry: tuple[Any, ...] = ([1, 1], [0, 0], [1, 1], 1)
        else:
            images = x if x.dim() == 4 else x.unsqueeze(0)
            geometry = (list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups)
        bits = torch.ops.binmat.binarize(images, deployed.threshold)
        y = torch.ops.binmat.binary_conv2d(
            bits, self.signs, deployed.multiplier, deployed.bias, *geometry, deployed.pad_value
        )
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
