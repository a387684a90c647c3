"""Put another module in a layer's place, or none, under every name that the layer is registered with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from binmat.model_defs.network import Network

from .trace import graphs

#: Where a module keeps the hooks of its calls.
_HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_backward_pre_hooks", "_backward_hooks",
)  # fmt: skip


def swap(owner: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Replace layers by name; a layer registered twice (MODNet's backbone) stays one object under all its names."""
    aliases = _aliases(owner)
    found = {name: aliases[id(owner.get_submodule(name))] for name in replacements}
    for name, replacement in replacements.items():
        for alias in found[name]:
            owner.set_submodule(alias, replacement)


def carry_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give a layer that takes another one's place the hooks of that one's calls."""
    for name in _HOOKS:
        getattr(new, name).update(getattr(old, name))
    if old._is_full_backward_hook is not None:
        new._is_full_backward_hook = old._is_full_backward_hook


def remove(owner: nn.Module, name: str) -> None:
    """Take a layer out, under all its names."""
    for alias in _aliases(owner)[id(owner.get_submodule(name))]:
        parent, _, child = alias.rpartition(".")
        delattr(owner.get_submodule(parent), child)


def remove_unread(network: Network, names: Iterable[str]) -> None:
    """Take out those of the parameters that no graph reads any more."""
    nodes = [node for graph in graphs(network).values() for node in graph.nodes]
    read = {node.target for node in nodes if node.op == "get_attr" and node.users}
    for name in set(names) - read:
        parent, _, child = name.rpartition(".")
        delattr(network.get_submodule(parent), child)


def _aliases(owner: nn.Module) -> dict[int, list[str]]:
    """The names of every module, by its identity."""
    aliases: dict[int, list[str]] = {}
    for name, layer in owner.named_modules(remove_duplicate=False):
        aliases.setdefault(id(layer), []).append(name)
    return aliases
