"""Parts of a traced graph: the nodes of a submodule, and another graph spliced in."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from binmat.errors import PolicyError, suggestion
from binmat.model_defs.network import Network

from .part_calls import inherit_inputs, rename_parts


def stack_of(node: fx.Node) -> dict[str, Any]:
    """The modules whose code made this node, outermost first: path -> (path, class)."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    return stack


def part_called(network: Network, name: str) -> nn.Module:
    """The submodule of this name. Raises PolicyError, with the most similar name, where there is none."""
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        near = suggestion(name, (part for part, _ in network.named_modules() if part), cutoff=0.6)
        children = ", ".join(child for child, _ in network.named_children())
        raise PolicyError(f"{network.name} has no part called '{name}': {near}it has {children}") from error


def nodes_inside(graph: fx.Graph, *names: str) -> list[fx.Node]:
    """The nodes that the submodules' code made, in order, with the unpacking of its results."""
    inside: dict[fx.Node, None] = {}
    for node in graph.nodes:
        paths = [path for path, _ in stack_of(node).values()]
        unpacks = node.target is operator.getitem and node.args[0] in inside and node.args[0].op == "call_module"
        if unpacks or any(path == name or path.startswith(f"{name}.") for path in paths for name in names):
            inside[node] = None
    return list(inside)


def inputs_of(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """What the nodes read from outside, in order, each once; parameters left out."""
    inside = set(nodes)
    sources = dict.fromkeys(source for node in nodes for source in node.all_input_nodes if source not in inside)
    return [source for source in sources if source.op != "get_attr"]


def outputs_of(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Those of the nodes that others read, in order."""
    inside = set(nodes)
    return [node for node in nodes if any(user not in inside for user in node.users)]


def splice(graph: fx.Graph, part: fx.Graph, arguments: Mapping[str, fx.Node], prefix: str = "") -> tuple[fx.Node, ...]:
    """Copy a traced method to the graph's insertion point; returns the nodes of its results, in order.

    arguments: placeholder's name -> node of the graph. prefix: path of the traced module in the network.
    """
    known = {node: arguments[str(node.target)] for node in part.nodes if node.op == "placeholder"}
    inside = f"{prefix}." if prefix else ""
    for placeholder, argument in known.items():
        inherit_inputs(argument, placeholder, lambda name: f"{inside}{name}")
    before = set(graph.nodes)
    results = graph.graph_copy(part, known)
    for node in graph.nodes if prefix else ():
        if node not in before:
            if node.op in ("call_module", "get_attr"):
                node.target = f"{prefix}.{node.target}"
            inner = {f"{prefix}.{key}": (f"{prefix}.{path}", kind) for key, (path, kind) in stack_of(node).items()}
            node.meta["nn_module_stack"] = {prefix: (prefix, nn.Module), **inner}
            rename_parts(node, lambda name: f"{inside}{name}")
    return _flat(results)


def call_module(graph: fx.Graph, name: str, args: Sequence[Any], like: fx.Node) -> fx.Node:
    """A call of a module, which may not exist yet, as if the code that calls ``like``'s layer made it."""
    node = graph.call_module(name, tuple(args))
    node.meta["nn_module_stack"] = outside(like) | {name: (name, nn.Module)}
    return node


def outside(node: fx.Node) -> dict[str, Any]:
    """The stack of the code that calls the node's layer."""
    return {key: entry for key, entry in stack_of(node).items() if entry[0] != node.target}


def add_module(network: Network, name: str, module: nn.Module) -> None:
    """Add a module at a free path. Raises PolicyError where the path is taken or its parent does not exist."""
    parent, _, child = name.rpartition(".")
    try:
        holder = network.get_submodule(parent)
    except AttributeError as error:
        raise PolicyError(f"there is no part '{parent}' of {network.name} to put '{child}' in") from error
    if hasattr(holder, child):
        raise PolicyError(f"{network.name} has a '{name}' already: give the new part another name")
    holder.add_module(child, module)


def _flat(results: Any) -> tuple[fx.Node, ...]:
    if isinstance(results, fx.Node):
        return (results,)
    values = results.values() if isinstance(results, Mapping) else results
    return tuple(node for value in values for node in _flat(value))
