"""What the graphs of a traced network run in evaluation: layers, parameters and buffers."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from binmat.errors import PolicyError
from binmat.model_defs.network import Network

from .shapes import probe_inputs, run_graphs
from .trace import graphs


def evaluation_graphs(network: Network) -> dict[str, fx.Graph]:
    """Mode -> graph, without the one that is for training alone."""
    return {mode: graph for mode, graph in graphs(network).items() if mode in network.modes}


def called_modules(network: Network) -> set[str]:
    """Names of the modules that are called in evaluation, and of all that is inside them."""
    called = {
        str(node.target)
        for graph in evaluation_graphs(network).values()
        for node in graph.nodes
        if node.op == "call_module"
    }
    identities = {id(part) for name in called for part in network.get_submodule(name).modules()}
    return {name for name, module in network.named_modules(remove_duplicate=False) if id(module) in identities}


def tensors_read(network: Network) -> set[str]:
    """Names of the parameters and buffers that functions and methods read in evaluation."""
    nodes = [node for graph in evaluation_graphs(network).values() for node in graph.nodes]
    return {str(node.target) for node in nodes if node.op == "get_attr"}


def check_executed(network: Network, names: Collection[str]) -> None:
    """Run every mode whose inputs are known, in evaluation; raise PolicyError where a layer of these is not called.

    Layers that only modes without known inputs call are looked up in the graphs of these.
    """
    missing = set(names)
    hooks = [
        network.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: missing.discard(name))
        for name in names
    ]
    try:
        ran = {mode for mode, _ in run_graphs(network, probe_inputs(network))}
    finally:
        for hook in hooks:
            hook.remove()
    for mode, graph in evaluation_graphs(network).items():
        if mode not in ran:
            missing -= {str(node.target) for node in graph.nodes if node.op == "call_module"}
    if missing:
        raise PolicyError(f"planned binary, but no call reaches: {', '.join(sorted(missing))}; leave them float")
