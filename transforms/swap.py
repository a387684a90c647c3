"""Put another module in a layer's place, under every name that the layer is registered with."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def swap(owner: nn.Module, replacements: Mapping[str, nn.Module]) -> None:
    """Replace layers by name; a layer registered twice (MODNet's backbone) stays one object under all its names."""
    aliases: dict[int, list[str]] = {}
    for name, layer in owner.named_modules(remove_duplicate=False):
        aliases.setdefault(id(layer), []).append(name)
    found = {name: aliases[id(owner.get_submodule(name))] for name in replacements}
    for name, replacement in replacements.items():
        for alias in found[name]:
            owner.set_submodule(alias, replacement)
