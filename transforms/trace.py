"""Trace a network into torch.fx graphs, one per mode, that run on the network's own layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from binmat.errors import LoweringError
from binmat.model_defs.network import Example, Network

from .program import Program
from .tracer import trace_method, works_in_place


class TracedModule(Network):
    """Any fx-traceable module as a :class:`Network` with one mode, ``forward``, and the same state_dict keys."""

    name = "module"
    min_size = 1

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.name = type(module).__name__
        graph = trace_method(module)
        for key, child in module.named_children():
            self.add_module(key, child)
        for key, parameter in module.named_parameters(recurse=False):
            self.register_parameter(key, parameter)
        persistent = module.state_dict()
        for key, buffer in module.named_buffers(recurse=False):
            self.register_buffer(key, buffer, persistent=key in persistent)
        self.programs["forward"] = Program(graph)
        self.train(module.training)

    def forward(self, *args: Any) -> Any:
        return self.run("forward", *args)

    def example(
        self, height: int, width: int, downsample_ratio: float = 1.0, device: torch.device | str = "cpu"
    ) -> Example:
        """One image with the first convolution's channels; LoweringError where the module takes anything else."""
        graph = graphs(self)["forward"]
        names = [str(node.target) for node in graph.nodes if node.op == "placeholder" and not node.args]
        first = next((layer for layer in self.modules() if isinstance(layer, nn.Conv2d)), None)
        if len(names) != 1 or first is None or downsample_ratio != 1:
            raise LoweringError(
                f"{self.name} takes {', '.join(names) or 'nothing'}: say what its example inputs are with an Example"
            )
        result = graph.output_node().args[0]
        outputs = len(result) if isinstance(result, (tuple, list)) else 1
        image = torch.zeros(1, first.in_channels, height, width, device=device)
        return Example("forward", {names[0]: image}, tuple(f"output{i}" for i in range(outputs)))


def trace(module: nn.Module) -> Network:
    """Give the network a graph for every mode; any other module becomes a :class:`TracedModule`.

    A :class:`Network` is changed in place (its layers stay where they are); one that is traced already is returned
    as it is. Raises TraceError that names the line which torch.fx cannot follow.

    >>> network = trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()))
    >>> [str(node.target) for node in graphs(network)["forward"].nodes]
    ['input', '0', '1', 'output']
    >>> network(torch.rand(1, 3, 4, 4)).shape
    torch.Size([1, 8, 4, 4])
    """
    if not isinstance(module, Network):
        return TracedModule(module)
    for mode, method in module.modes.items():
        if mode not in module.programs:
            module.programs[mode] = Program(trace_method(module, method))
    return module


def graphs(network: Network) -> dict[str, fx.Graph]:
    """The graphs of a traced network by mode."""
    return {mode: program.graph for mode, program in network.programs.items() if isinstance(program, Program)}


def recompile(network: Network) -> None:
    """Compile every program anew after its graph was edited."""
    for program in network.programs.values():
        if isinstance(program, Program):
            program.graph.eliminate_dead_code(
                lambda node: node.op in ("placeholder", "output") or works_in_place(node, network)
            )
            program.compile()
