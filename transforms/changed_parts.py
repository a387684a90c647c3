"""Parts whose own code no longer computes what the graphs compute in their place: they refuse to be called alone."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from torch import fx, nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from binmat.errors import InputError
from binmat.model_defs.network import Network

from .part_calls import inputs_held, outputs_held
from .subgraph import stack_of
from .trace import graphs, recompile
from .tracer import works_in_place


class ChangedParts:
    """The parts of a traced network that the passes change in a way that calling them does not show.

    A container that is called alone runs its own code. That code calls the layers that are there now, so layers that
    are swapped change nothing. Where a pass rewrites the nodes between what a part takes and what it returns, the code
    computes something else. So does code that keeps a layer that was replaced, in a list for example.

    >>> from binmat.transforms.shortcut import AddShortcuts
    >>> from binmat.transforms.binarize import Binarize
    >>> from binmat.quantizers import get_scheme
    >>> from binmat.transforms.trace import trace
    >>> network = trace(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.Conv2d(8, 8, 1)), nn.Conv2d(8, 1, 1)))
    >>> parts = ChangedParts(network)
    >>> for step in (Binarize(get_scheme("bnn")), AddShortcuts("same")):
    ...     parts.compare(step.apply(network))
    >>> sorted(parts.changed)
    ['1']
    """

    def __init__(self, network: Network) -> None:
        recompile(network)  # Code that nothing reads is taken out by the first pass.
        self.changed: dict[str, nn.Module] = {}
        self._replacements: dict[str, nn.Module] = {}
        self._replaced: list[nn.Module] = []
        self._look_at(network)

    def compare(self, network: Network) -> None:
        """Note the parts that the pass changed that was applied last."""
        before, modules = self._code, self._modules
        self._look_at(network)
        now = self._modules
        for (part, mode), code in before.items():
            if part in now and self._code.get((part, mode)) != code:
                # Of a part that another one has taken the place of, the other one's code is in the graph.
                (self.changed if now[part] is modules[part] else self._replacements)[part] = now[part]
        here = {id(module) for module in now.values()}
        self._replaced += [module for module in modules.values() if id(module) not in here]

    def refuse(self, network: Network) -> None:
        """Let them raise InputError when they are called.

        Layers that a graph calls itself can be called as it does: a masked path with its mask.
        """
        calls = [node for graph in graphs(network).values() for node in graph.nodes if node.op == "call_module"]
        arguments = {id(network.get_submodule(str(node.target))): len(node.args) for node in calls}
        called = {id(inner) for node in calls for inner in network.get_submodule(str(node.target)).modules()}
        replaced = {id(module) for module in self._replaced}
        stale = {id(module) for module in self._modules.values() if _keeps(module, replaced)}
        for name, module in self._modules.items():
            changed = self.changed.get(name) is module or any(id(inner) in stale for inner in module.modules())
            if name and changed and id(module) not in called:
                module.register_forward_pre_hook(_Refusal(name, network.name))
            elif self._replacements.get(name) is module and id(module) in arguments:
                module.register_forward_pre_hook(_Refusal(name, network.name, arguments[id(module)]))

    def _look_at(self, network: Network) -> None:
        self._modules = dict(network.named_modules())
        self._code = {
            (part, mode): code
            for mode, graph in graphs(network).items()
            for part, code in _code_of_parts(graph, network)
        }


class _Refusal:
    """A hook: its part cannot be called with fewer arguments than the graph gives it, by default not at all."""

    def __init__(self, part: str, network: str, arguments: float = math.inf) -> None:
        self.part, self.network, self.arguments = part, network, arguments

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args) < self.arguments:
            raise InputError(
                f"'{self.part}' cannot be called alone: the conversion of {self.network} changed what is computed in "
                f"its place, which its own code ({type(module).__name__}) does not have. To read what it returns "
                f"inside the network, use binmat.features(network, ['{self.part}'])"
            )


def _keeps(module: nn.Module, replaced: Collection[int]) -> bool:
    """Whether a module holds a replaced one besides its children."""
    values = (value for key, value in vars(module).items() if key != "_modules")
    return any(id(leaf) in replaced for value in values for leaf in pytree.tree_leaves(value))


def _code_of_parts(graph: fx.Graph, network: Network) -> Iterator[tuple[str, Any]]:
    """(part, what the graph computes for its calls): from what they take to what they return."""
    inputs: dict[str, dict[int, dict[fx.Node, int]]] = {}
    outputs: dict[str, dict[int, dict[int, fx.Node]]] = {}
    writes: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        for taken in inputs_held(node):
            inputs.setdefault(taken.part, {}).setdefault(taken.call, {})[node] = taken.index
        for returned in outputs_held(node):
            outputs.setdefault(returned.part, {}).setdefault(returned.call, {})[returned.index] = node
        if works_in_place(node, network):
            for path, _ in stack_of(node).values():
                writes.setdefault(path, []).append(node)
    for part, calls in outputs.items():
        taken_by = inputs.get(part, {})
        seen: set[fx.Node] = set()
        code = [
            _lines([nodes[index] for index in sorted(nodes)], taken_by.get(call, {}), seen)
            for call, nodes in calls.items()
        ]
        # What writes into a tensor need not lead to a result.
        other_writes = [node for node in writes.get(part, []) if node not in seen]
        anything = {node: index for nodes in taken_by.values() for node, index in nodes.items()}
        yield part, (code, _lines(other_writes, anything, seen))


def _lines(results: Sequence[fx.Node], inputs: Mapping[fx.Node, int], seen: set[fx.Node]) -> list[str]:
    """The calls that lead from the inputs to the results, each as a line that names earlier ones by their numbers.

    seen: they are added to it.
    """
    numbers: dict[fx.Node, int] = {}
    lines: list[str] = []
    open_nodes = list(reversed(results))
    while open_nodes:
        node = open_nodes[-1]
        missing = [] if node in inputs else [source for source in node.all_input_nodes if source not in numbers]
        if missing and node not in numbers:
            open_nodes += reversed(missing)
            continue
        open_nodes.pop()
        if node not in numbers:
            numbers[node] = len(numbers)
            lines.append(f"input {inputs[node]}" if node in inputs else _line(node, numbers))
    seen.update(numbers)
    return [*lines, *(f"returns %{numbers[node]}" for node in results)]


def _line(node: fx.Node, numbers: Mapping[fx.Node, int]) -> str:
    operands = map_arg((node.args, node.kwargs), lambda source: f"%{numbers[source]}")
    return f"{node.op} {node.target} {operands}"
