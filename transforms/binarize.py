"""Swap the planned layers for their 1-bit variants; names, keys and graphs stay as they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from binmat.model_defs.network import Network
from binmat.nn import BinaryConv2d, BinaryLinear

from .policy import LayerPlan


class Binarize:
    """Replaces each layer whose plan has a scheme by BinaryConv2d or BinaryLinear under the same name.

    A layer that is registered twice (MODNet's backbone) is replaced under each of its names by the same object.
    """

    def __init__(self, plan: Mapping[str, LayerPlan], pad_value: int = 0) -> None:
        self.plan = plan
        self.pad_value = pad_value

    def apply(self, network: Network) -> Network:
        aliases: dict[int, list[str]] = {}
        for name, layer in network.named_modules(remove_duplicate=False):
            aliases.setdefault(id(layer), []).append(name)
        for name, planned in self.plan.items():
            if planned.scheme is None:
                continue
            layer = network.get_submodule(name)
            binary: nn.Module
            if isinstance(layer, nn.Linear):
                binary = BinaryLinear.from_float(layer, planned.scheme)
            else:
                assert isinstance(layer, nn.Conv2d)
                binary = BinaryConv2d.from_float(layer, planned.scheme, pad_value=self.pad_value)
            binary.train(layer.training)
            for alias in aliases[id(layer)]:
                network.set_submodule(alias, binary)
        return network
