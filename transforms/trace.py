"""Trace a network into torch.fx graphs, one per mode, that run on the network's own layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast

from binmat.model_defs.network import Example, Network

from .gradient_mode import check_gradients
from .parametrizations import without_parametrizations
from .program import Program
from .traced_module import TracedModule
from .traced_number import check_size
from .tracer import trace_method, works_in_place
from .tracing_lock import TRACING_LOCK

#: Functions in a graph that compute nothing and stop it where the code would decide otherwise.
CHECKS = (check_size, check_gradients)


def trace(module: nn.Module, size: tuple[int, int] | None = None, example: Example | None = None) -> Network:
    """Give the network a graph for every mode; any other module becomes a :class:`TracedModule`.

    size, example: of any other module, see :class:`TracedModule`. A :class:`Network` is changed in place (its layers
    stay where they are); one that is traced already is returned as it is. Raises TraceError that names the line which
    cannot be traced.

    >>> network = trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()))
    >>> [str(node.target) for node in graphs(network)["forward"].nodes]
    ['input', '0', '1', 'output']
    >>> network(torch.rand(1, 3, 4, 4)).shape
    torch.Size([1, 8, 4, 4])
    """
    with TRACING_LOCK:
        if not isinstance(module, Network):
            plain = without_parametrizations(module)
            traced = TracedModule(plain, size, example)
            traced.check(module)
            traced.add_training(plain)
            traced.pin_sizes(plain)
            return traced
        for mode, method in module.modes.items():
            if mode not in module.programs:
                module.programs[mode] = Program(trace_method(module, method))
        return module


def graphs(network: Network) -> dict[str, fx.Graph]:
    """The graphs of a traced network by mode."""
    return {mode: program.graph for mode, program in network.programs.items() if isinstance(program, Program)}


def recompile(network: Network) -> None:
    """Compile every program anew after its graph was edited."""

    def acts(node: fx.Node) -> Any:
        switches = (*CHECKS, _enter_autocast, _exit_autocast, torch._C._set_grad_enabled)
        return node.op in ("placeholder", "output") or node.target in switches or works_in_place(node, network)

    for program in network.programs.values():
        if isinstance(program, Program):
            program.graph.eliminate_dead_code(acts)
            program.compile()
