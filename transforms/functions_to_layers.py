"""Call as a module what the code computes with a function and the weight of a layer of its own class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from binmat.model_defs.network import Network

from .graph_pass import GraphPass
from .part_calls import hand_over
from .swap import swap
from .trace import graphs, recompile

#: The functions with the names of their arguments and the defaults of those that have one.
_CONV: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_ARGUMENTS: dict[Any, tuple[str, ...]] = {
    F.conv2d: ("input", "weight", "bias", *_CONV),
    F.linear: ("input", "weight", "bias"),
}


@dataclass(eq=False)
class _Use:
    """One call of a function with a layer's own weight. geometry: its further arguments."""

    node: fx.Node
    graph: fx.Graph
    has_bias: bool
    geometry: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class FunctionsToLayers(GraphPass[Network]):
    """Makes a plain nn.Conv2d or nn.Linear of a layer whose own ``forward`` calls F.conv2d or F.linear.

    Its weight and bias stay the same tensors under the same names. That is how subclasses that pad their input first
    or add nothing of their own become layers that a policy can plan. A layer stays as it is where its weight is
    computed with before, where it is called as well, where calls differ in stride, padding, dilation or groups, and
    where it has other tensors.

    >>> import torch
    >>> from binmat.transforms.trace import trace
    >>> class Padded(nn.Conv2d):
    ...     def forward(self, x):
    ...         return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride)
    >>> network = FunctionsToLayers().apply(trace(nn.Sequential(Padded(3, 8, 2))))
    >>> [node.name for node in graphs(network)["forward"].nodes], type(network.get_submodule("0")).__name__
    (['input_1', 'pad', '_0', 'output'], 'Conv2d')
    """

    def apply(self, network: Network) -> Network:
        uses: dict[str, list[_Use]] = {}
        for graph in graphs(network).values():
            for node in graph.nodes:
                if node.op == "call_function" and node.target in _ARGUMENTS:
                    name, use = _use(node, graph)
                    uses.setdefault(name, []).append(use)
        for name, found in uses.items():
            layer = _layer_of(network, name, found)
            if layer is not None:
                kind = type(network.get_submodule(name)).__name__
                self.notes[name] = f"its class {kind} calls a function with its weight"
                swap(network, {name: layer})
                for use in found:
                    with use.graph.inserting_before(use.node):
                        call = use.graph.call_module(name, use.node.args[:1])
                        use.node.replace_all_uses_with(call)
                        hand_over(use.node, call)
                    use.graph.erase_node(use.node)
        recompile(network)
        return network


def _use(node: fx.Node, graph: fx.Graph) -> tuple[str, _Use]:
    """The name of the layer whose weight a function takes (empty where it takes another tensor), and its call."""
    given: dict[str, Any] = dict(zip(_ARGUMENTS[node.target], node.args, strict=False)) | dict(node.kwargs)
    weight, bias = given.pop("weight"), given.pop("bias", None)
    name = str(weight.target).rpartition(".")[0] if isinstance(weight, fx.Node) and weight.op == "get_attr" else ""
    known = {f"{name}.weight": weight, f"{name}.bias": bias} if name else {}
    fits = all(value is None or (isinstance(value, fx.Node) and value.target == key) for key, value in known.items())
    given.pop("input")
    use = _Use(node, graph, bias is not None, given)
    return name if fits and not any(isinstance(value, fx.Node) for value in given.values()) else "", use


def _layer_of(network: Network, name: str, uses: list[_Use]) -> nn.Module | None:
    """The plain layer for these calls; None where there is none."""
    old = network.get_submodule(name)
    tensors = {key for key, _ in (*old.named_parameters(), *old.named_buffers())}
    readers = [
        node
        for graph in graphs(network).values()
        for node in graph.nodes
        if any(source.op == "get_attr" and source.target == f"{name}.weight" for source in node.all_input_nodes)
    ]
    called = any(
        node.op == "call_module" and f"{name}.".startswith(f"{node.target}.")
        for graph in graphs(network).values()
        for node in graph.nodes
    )
    first = uses[0]
    kinds = [(use.node.target, use.has_bias, _normal(use)) for use in uses]
    alike = all(kind == kinds[0] for kind in kinds)
    if not name or called or not alike or not tensors <= {"weight", "bias"} or len(readers) != len(uses):
        return None
    weight = old.get_parameter("weight")
    layer: nn.Module
    if first.node.target is F.linear:
        layer = nn.Linear(weight.shape[1], weight.shape[0], first.has_bias, device="meta")
    else:
        geometry = _normal(first)
        inputs = weight.shape[1] * geometry["groups"]
        layer = nn.Conv2d(
            inputs, weight.shape[0], _pair(weight.shape[2:]), bias=first.has_bias, device="meta", **geometry
        )
    layer.weight = weight
    if first.has_bias:
        layer.bias = old.get_parameter("bias")
    return layer.train(old.training)


def _normal(use: _Use) -> dict[str, Any]:
    """Stride, padding, dilation and groups with their defaults, pairs as pairs."""
    if use.node.target is F.linear:
        return {}
    given = _CONV | use.geometry
    return {key: value if key == "groups" or isinstance(value, str) else _pair(value) for key, value in given.items()}


def _pair(value: Any) -> tuple[int, int]:
    both = (value, value) if isinstance(value, int) else tuple(value) * 2
    return both[0], both[1]
