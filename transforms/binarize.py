"""Replace the planned layers by their 1-bit forms; names, keys and graphs stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from binmat.model_defs.network import Network
from binmat.nn import BinaryConv2d, BinaryLayer, BinaryLinear
from binmat.quantizers import Scheme

from .graph_pass import GraphPass
from .policy import LayerPlan, resolve
from .swap import carry_hooks, swap


@dataclass(eq=False)
class Binarize(GraphPass[Network]):
    """Replaces each layer whose plan has a scheme by BinaryConv2d or BinaryLinear, with its weights, under its name.

    Layers that are binary already are left as they are.

    scheme, rules: see :func:`binmat.transforms.policy.resolve`, whose PolicyError is raised. pad_value: what padding
    holds, 0 or 1 in the activation's own domain. plan: layer -> what became of it, once the pass is applied.

    >>> from binmat.quantizers import get_scheme
    >>> from binmat.transforms.trace import trace
    >>> binarize = Binarize(get_scheme("bnn"))
    >>> network = binarize.apply(trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1))))
    >>> [planned.precision for planned in binarize.plan.values()]
    ['float', 'binary', 'float']
    """

    scheme: Scheme
    rules: Mapping[str, str] = field(default_factory=dict)
    pad_value: int = 0
    plan: dict[str, LayerPlan] = field(default_factory=dict, init=False)

    def apply(self, network: Network) -> Network:
        self.plan = resolve(network, self.scheme, self.rules)
        self.notes |= {name: planned.note for name, planned in self.plan.items() if planned.note}
        replacements: dict[str, nn.Module] = {}
        for name, planned in self.plan.items():
            layer = network.get_submodule(name)
            if planned.scheme is None or isinstance(layer, BinaryLayer):
                continue
            if isinstance(layer, nn.Linear):
                replacements[name] = BinaryLinear.from_float(layer, planned.scheme)
            elif isinstance(layer, nn.Conv2d):
                replacements[name] = BinaryConv2d.from_float(layer, planned.scheme, pad_value=self.pad_value)
        for name, replacement in replacements.items():
            carry_hooks(network.get_submodule(name), replacement)
        swap(network, replacements)
        return network
