"""What tells two networks apart besides the values of their weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from binmat.model_defs.network import Network
from binmat.nn import BinaryLayer

from .trace import graphs


def first_difference(network: Network, other: Network) -> str:
    """The first thing in which a network differs from the other one, in words; empty where nothing does.

    Compared are the shapes of parameters and buffers, the layers with their settings, the example inputs of a traced
    module, the graphs where both networks are traced, and the values of buffers that are in no state_dict.
    """
    for describe in (_shapes, _layers, _example):
        found, wanted = describe(network), describe(other)
        for name in {**found, **wanted}:
            here, there = found.get(name, "absent"), wanted.get(name, "absent")
            if here != there:
                return f"'{name}' is {here} instead of {there}"
    found, wanted = _code(network), _code(other)
    for mode in found.keys() & wanted.keys():
        if found[mode] != wanted[mode]:
            return f"the graph of '{mode}' computes something else"
    state, buffers = network.state_dict(), dict(other.named_buffers())
    for name, value in network.named_buffers():
        if name not in state and not _same(value, buffers[name]):
            return f"'{name}', which is in no state_dict, has other values"
    return ""


def _shapes(network: Network) -> dict[str, Any]:
    return {name: list(value.shape) for name, value in (*network.named_parameters(), *network.named_buffers())}


def _layers(network: Network) -> dict[str, Any]:
    return {name: _settings(module) for name, module in network.named_modules() if name}


def _settings(module: nn.Module) -> str:
    options = f" with {module.scheme.options()}" if isinstance(module, BinaryLayer) else ""
    return f"{type(module).__name__}({module.extra_repr()}){options}"


def _example(network: Network) -> dict[str, Any]:
    """Of a module whose call is one image no size is compared: its graph follows the size."""
    if network.traced_example is None or network.takes_an_image:
        return {}
    inputs = {f"input {name}": value for name, value in network.traced_example.inputs.items()}
    return {name: list(value.shape) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _code(network: Network) -> dict[str, str]:
    return {mode: graph.python_code("self").src for mode, graph in graphs(network).items()}


def _same(value: Tensor, other: Tensor) -> bool:
    other = other.to(value)
    return torch.allclose(value, other, equal_nan=True) if value.is_floating_point() else torch.equal(value, other)
