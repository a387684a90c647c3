"""Shapes in a traced graph, by running it on a small frame of zeros."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from binmat.errors import BinmatError, PolicyError, first_line
from binmat.model_defs.network import Example, Network
from binmat.nn.masked_path import set_execution

from .trace import graphs
from .traced_module import TRAINING, TracedModule, copies

#: Size of the frames that graphs are tried on; rounded up to what the network takes.
_PROBE = 64


def probe_inputs(network: Network, example: Example | None = None) -> dict[str, Tensor | float]:
    """Argument name -> tensor or number, for all modes: the network's example inputs at a small size, or ``example``.

    Raises LoweringError where the network cannot say what its example inputs are.
    """
    example = example or network.traced_example
    if example is not None:
        return dict(example.inputs)
    size = max(_PROBE, network.min_size)
    size = -(-size // network.size_multiple) * network.size_multiple
    inputs = dict(network.example(size, size).inputs)
    try:
        # At ratio 1/2 a frame of twice the size has the same states; only the numbers are wanted here.
        reduced = network.example(2 * size, 2 * size, 0.5).inputs
    except BinmatError:
        return inputs
    return inputs | {name: 1.0 for name, value in reduced.items() if not isinstance(value, Tensor)}


def run_graphs(
    network: Network, inputs: Mapping[str, Tensor | float], interpreter: type[ShapeInterpreter] | None = None
) -> Iterator[tuple[str, ShapeInterpreter]]:
    """Run every mode whose arguments are known; yields (mode, its interpreter with the values).

    Raises PolicyError, naming the node, where shapes do not fit.
    """
    # A frame this small takes milliseconds; torch's fake tensors, which compute nothing, take seconds.
    shadow = copy.deepcopy(network, {id(network.programs): {}}).eval()
    # A path that skips pixels does not call its layers.
    set_execution(shadow, "dense")
    like = next((p for p in shadow.parameters() if p.is_floating_point()), torch.zeros(()))
    for mode, graph in graphs(network).items():
        names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
        if not set(names) <= inputs.keys():
            continue
        runner = (interpreter or ShapeInterpreter)(shadow, graph)
        training = isinstance(network, TracedModule) and mode == TRAINING
        count = network.training_copies if isinstance(network, TracedModule) and training else 1
        values = [copies(inputs[name], count) for name in names]
        with torch.set_grad_enabled(training):
            runner.run(*(v.to(like) if isinstance(v, Tensor) and v.is_floating_point() else v for v in values))
        yield mode, runner


class ShapeInterpreter(fx.Interpreter):
    """Runs a graph on a copy of its network and keeps every node's value."""

    def __init__(self, shadow: Network, graph: fx.Graph) -> None:
        super().__init__(shadow, graph=graph, garbage_collect_values=False)
        self.shadow = shadow
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        try:
            return super().run_node(n)
        except BinmatError:
            raise
        except Exception as error:
            where = n.target if n.op == "call_module" else n.name
            raise PolicyError(
                f"the shapes of {self.shadow.name} do not fit at '{where}': {first_line(error)}"
            ) from error

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's tensor."""
        value = self.env[node]
        assert isinstance(value, Tensor)
        return tuple(value.shape)
