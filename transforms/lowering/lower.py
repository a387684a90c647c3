"""From a network to its lowered graph: one frame, fixed shapes, ATen operators and two binary ones."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from binmat.errors import LoweringError
from binmat.model_defs.network import Example, Network
from binmat.nn import BinaryConv2d, BinaryLinear
from binmat.transforms.graph_pass import GraphPass
from binmat.transforms.program import Program
from binmat.transforms.swap import swap
from binmat.transforms.trace import trace

from . import binary_operators  # noqa: F401  (registers the operators)
from .fold_affine import FoldAffine
from .fold_constants import FoldConstants
from .lowered_graph import LoweredGraph
from .remove_noops import RemoveNoOps

#: What is done to a lowered graph, in order.
LOWERING_PASSES: tuple[type[GraphPass[fx.GraphModule]], ...] = (RemoveNoOps, FoldConstants, FoldAffine)


def lower(network: nn.Module, example: Example, dtype: torch.dtype = torch.float32) -> LoweredGraph:
    """Flatten a network, in evaluation mode, at the sizes of its example inputs.

    Batch norm, scales and biases are folded into the convolutions (in float64); DoReFa's {0, 1} activations become
    +-1 with the sums corrected exactly; XNOR-Net's K map stays as float operators. The result computes what
    ``network.eval()`` computes, up to the rounding of ``dtype``. Outputs that the network has names for and the example
    does not name (a sparse decoder's side outputs) are left out of the graph. Operators that work in place become those
    that do not. Raises LoweringError.
    """
    owner = trace(copy.deepcopy(network)).eval().to(dtype)
    _swap_binary_layers(owner)
    _name_layers(owner)
    program = owner.programs[example.mode]
    assert isinstance(program, Program)
    tensors = {name: value.to(dtype) for name, value in example.inputs.items() if isinstance(value, Tensor)}

    def frame(*values: Tensor) -> tuple[Tensor, ...]:
        bound = dict(zip(tensors, values, strict=True))
        arguments = [bound.get(name, value) for name, value in example.inputs.items()]
        result = _NameFunctions(owner, graph=program.graph).run(*arguments)
        return _asked_for(owner, example, tuple(result) if isinstance(result, (tuple, list)) else (result,))

    try:
        with torch.no_grad():
            record = make_fx(functionalize(frame), tracing_mode="fake", _allow_non_fake_inputs=True)
            module = record(*tensors.values())
    except Exception as error:
        size = "x".join(str(n) for n in next(iter(tensors.values())).shape[2:])
        raise LoweringError(f"{owner.name} cannot be lowered at {size}: {str(error).splitlines()[0]}") from error
    for lowering_pass in LOWERING_PASSES:
        lowering_pass().apply(module)
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


class _NameFunctions(fx.Interpreter):
    """Marks what make_fx records for the graph's function and method calls with their node names."""

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module":
            return super().run_node(n)
        mark = _Mark(n.name)
        mark.start()
        result = super().run_node(n)
        mark.stop()
        return result


def _name_layers(owner: nn.Module) -> None:
    """Let every layer, also inside a recurrence, mark what make_fx records while it runs."""
    for name, layer in owner.named_modules():
        if name:
            mark = _Mark(name)
            layer.register_forward_pre_hook(lambda *_, mark=mark: mark.start())
            layer.register_forward_hook(lambda *_, mark=mark: mark.stop())


class _Mark:
    """Gives every node that is recorded between start and stop, and has no layer yet, this layer."""

    def __init__(self, layer: str) -> None:
        self.layer = layer

    def start(self) -> None:
        mode = get_proxy_mode()
        assert mode is not None
        self.graph: fx.Graph = mode.tracer.graph
        self.before = len(self.graph.nodes)

    def stop(self) -> None:
        recorded = len(self.graph.nodes) - self.before
        for node, _ in zip(reversed(self.graph.nodes), range(recorded), strict=False):
            node.meta.setdefault("layer", self.layer)


class _LoweredBinary(nn.Module):
    """A binary layer as the two operators of the lowered graph; a linear one is a 1x1 convolution."""

    def __init__(self, layer: BinaryConv2d | BinaryLinear) -> None:
        super().__init__()
        self.layer: BinaryConv2d | BinaryLinear = layer
        self.deployed = layer.deployed()
        self.weight = self.deployed.weight.reshape(*layer.weight.shape, *[1] * (4 - layer.weight.dim()))

    def forward(self, x: Tensor) -> Tensor:
        layer, deployed, shape = self.layer, self.deployed, x.shape
        if isinstance(layer, BinaryLinear):
            image = x.reshape(-1, shape[-1], 1, 1)
            geometry: tuple[Any, ...] = ([1, 1], [0, 0], [1, 1], 1)
        else:
            image = x
            geometry = (list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups)
        bits = torch.ops.binmat.binarize(image, deployed.threshold)
        y = torch.ops.binmat.binary_conv2d(
            bits, self.weight, deployed.multiplier, deployed.bias, *geometry, deployed.pad_value
        )
        if isinstance(layer, BinaryLinear):
            y = y.reshape(*shape[:-1], -1)
        if layer.scheme.input_scale_map:
            y = y * layer.input_scale(x, layer.product)
            y = y if layer.bias is None else y + layer.per_channel(layer.bias)
        return y


def _swap_binary_layers(owner: nn.Module) -> None:
    binary = {n: m for n, m in owner.named_modules() if isinstance(m, (BinaryConv2d, BinaryLinear))}
    swap(owner, {name: _LoweredBinary(layer) for name, layer in binary.items()})
