"""Replace the activation functions behind binary layers, as ReActNet does."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from binmat.model_defs.network import Network
from binmat.nn import RPReLU

from .patterns import ACTIVATIONS, BinaryBlock, activation_key, binary_blocks, called_module
from .trace import graphs, recompile


class ReplaceActivations:
    """Puts an RPReLU where a binary layer of a scheme with ``replacement = "rprelu"`` is activated.

    Module, function and method calls are all found on the graph (layer, batch norm, activation in a row). The new
    module takes the old one's name, or ``<layer>_rprelu`` where there was no module or it serves elsewhere too. Its
    slope starts as that of the function it replaces (ReLU 0, LeakyReLU and PReLU their own), else at .25.
    Source: Liu et al., ReActNet, ECCV 2020, Eq. 5.
    """

    def apply(self, network: Network) -> Network:
        made: dict[str, str] = {}
        for graph in graphs(network).values():
            for block in binary_blocks(graph, network):
                if block.module.scheme.replacement == "rprelu" and block.activation is not None:
                    self._replace(network, graph, block, block.activation, made)
        recompile(network)
        return network

    def _replace(
        self, network: Network, graph: fx.Graph, block: BinaryBlock, old: fx.Node, made: dict[str, str]
    ) -> None:
        layer = str(block.layer.target)
        if layer not in made:
            channels = block.module.weight.shape[0]
            name = self._free_name(network, old, layer)
            weight = block.module.weight
            replacement = RPReLU(channels, device=weight.device, dtype=weight.dtype)
            with torch.no_grad():
                replacement.slope.copy_(torch.as_tensor(_start_slope(network, old)).expand(channels))
            network.set_submodule(name, replacement)
            made[layer] = name
        with graph.inserting_before(old):
            new = graph.call_module(made[layer], (old.args[0] if old.args else old.kwargs["input"],))
        old.replace_all_uses_with(new)
        graph.erase_node(old)

    @staticmethod
    def _free_name(network: Network, old: fx.Node, layer: str) -> str:
        """The replaced module's own name if nothing else calls that module, else a new one beside the layer."""
        module = called_module(old, network)
        if module is not None:
            callers = {
                node.args[0].target if isinstance(node.args[0], fx.Node) else None
                for graph in graphs(network).values()
                for node in graph.nodes
                if node.op == "call_module" and called_module(node, network) is module
            }
            if len(callers) == 1:
                return str(old.target)
        return f"{layer}_rprelu"


def _start_slope(network: Network, node: fx.Node) -> float | Tensor:
    module = called_module(node, network)
    if isinstance(module, nn.LeakyReLU):
        return module.negative_slope
    if isinstance(module, nn.PReLU):
        return module.weight
    slope = ACTIVATIONS[activation_key(node, network)]
    return 0.25 if slope is None else slope
