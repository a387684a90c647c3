"""Swap the planned layers for their 1-bit variants; names, keys and graphs stay as they are."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from binmat.model_defs.network import Network
from binmat.nn import BinaryConv2d, BinaryLinear

from .policy import LayerPlan
from .swap import swap


class Binarize:
    """Replaces each layer whose plan has a scheme by BinaryConv2d or BinaryLinear, with its weights, under its name.

    pad_value: what padding holds, 0 or 1 in the activation's own domain.
    """

    def __init__(self, plan: Mapping[str, LayerPlan], pad_value: int = 0) -> None:
        self.plan = plan
        self.pad_value = pad_value

    def apply(self, network: Network) -> Network:
        replacements: dict[str, nn.Module] = {}
        for name, planned in self.plan.items():
            if planned.scheme is None:
                continue
            layer = network.get_submodule(name)
            if isinstance(layer, nn.Linear):
                replacements[name] = BinaryLinear.from_float(layer, planned.scheme)
            elif isinstance(layer, nn.Conv2d):
                replacements[name] = BinaryConv2d.from_float(layer, planned.scheme, pad_value=self.pad_value)
        swap(network, replacements)
        return network
