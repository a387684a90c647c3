"""Read what parts of a network return, by name: float, converted or foreign."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from binmat.errors import InputError, suggestion
from binmat.model_defs.network import Network

from .call_structure import Structure
from .executed import called_modules
from .part_calls import outputs_held
from .program import Program


class Features(dict[str, Any]):
    """Part -> what it returned. Raises InputError for a part that no call has reached."""

    def __missing__(self, part: str) -> Any:
        raise InputError(f"no call has reached '{part}': call the network in the with block, in a mode that runs it")


@contextmanager
def features(network: nn.Module, names: Iterable[str]) -> Iterator[Features]:
    """Read what layers and containers return while the network is called in the ``with`` block.

    names: of modules, as ``named_modules`` has them. Yields a dict that every call fills: name -> what the part
    returned, a tensor or tensors nested as the part nests them; of several calls the last. They are copies with
    gradients, which operators that work in place leave alone.

    A container of a converted network is no longer called. Its result is the tensor that stands in its place in the
    graph, with all that the conversion changed. (Called alone it gives the same, or refuses where the conversion
    changed more than its layers.) So the names of the float network hold for the converted one, and features of the two
    can be compared, as distillation does. Raises InputError for a name that is no part, and for a part whose result the
    conversion has replaced.

    >>> import torch
    >>> from binmat.transforms.convert import convert
    >>> block = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
    >>> teacher = nn.Sequential(nn.Conv2d(3, 8, 1), block, nn.Conv2d(8, 1, 1))
    >>> student, image = convert(teacher, "reactnet", size=(4, 4)), torch.rand(1, 3, 4, 4)
    >>> with features(teacher, ["1"]) as wanted, features(student, ["1"]) as found:
    ...     results = teacher(image), student(image)
    >>> (found["1"] - wanted["1"]).square().mean().requires_grad
    True
    """
    names = list(names)
    found = Features()
    parts = dict(network.named_modules(remove_duplicate=False))
    for name in names:
        if name not in parts:
            hint = suggestion(name, parts, "; did you mean '{}'?")
            raise InputError(f"{type(network).__name__} has no part '{name}'{hint}")
    with ExitStack() as stack:
        for prefix, traced in _traced(network).items():
            inside = {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}
            stack.enter_context(_reading(traced, inside, found))
            names = [name for name in names if not name.startswith(prefix)]
        for name in names:
            stack.enter_context(_hooked(parts[name], name, found))
        yield found


def _traced(network: nn.Module) -> dict[str, Network]:
    """The outermost traced networks in a module, by the prefix of the names inside."""
    found: dict[str, Network] = {}
    for name, module in network.named_modules():
        if isinstance(module, Network) and module.programs and not any(name.startswith(prefix) for prefix in found):
            found[f"{name}." if name else ""] = module
    return found


@contextmanager
def _reading(network: Network, names: Mapping[str, str], found: Features) -> Iterator[None]:
    """Read parts of a traced network; names: in the network -> in what is found."""
    first = {id(module): name for name, module in network.named_modules()}
    parts = {first[id(network.get_submodule(name))]: found_as for name, found_as in names.items()}
    programs = {
        mode: _Reading(program, parts, found)
        for mode, program in network.programs.items()
        if isinstance(program, Program)
    }
    noted = {part for program in programs.values() for part in program.parts}
    called = called_modules(network)
    with ExitStack() as stack:
        for part, found_as in parts.items():
            if part not in noted:
                if part not in called:
                    raise InputError(
                        f"'{found_as}' returns nothing in the graphs of {network.name}: the conversion replaced it, or "
                        "no call reaches it"
                    )
                stack.enter_context(_hooked(network.get_submodule(part), found_as, found))
        before = network.programs
        network.programs = {**before, **programs}
        try:
            yield
        finally:
            network.programs = before


@contextmanager
def _hooked(module: nn.Module, name: str, found: Features) -> Iterator[None]:
    def note(_module: nn.Module, _args: Any, result: Any) -> None:
        found[name] = _copied(result)

    handle = module.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


class _Reading(Program):
    """A program that also notes what parts return. parts: those of the wanted ones that its graph has."""

    def __init__(self, program: Program, wanted: Mapping[str, str], found: Features) -> None:
        self.graph, self.function = program.graph, program.function
        self.wanted, self.found = wanted, found
        graph = copy.deepcopy(program.graph)
        self.parts, tensors = _outputs_of(graph, wanted)
        output = graph.output_node()
        output.args = ((output.args[0], tensors),)
        self.longer = Program(graph)

    def __call__(self, owner: nn.Module, *args: Any) -> Any:
        result, tensors = self.longer(owner, *args)
        for part, structure in self.parts.items():
            self.found[self.wanted[part]] = structure.rebuild(tensors[part])
        return result


def _outputs_of(graph: fx.Graph, wanted: Iterable[str]) -> tuple[dict[str, Structure], dict[str, list[fx.Node]]]:
    """Of the wanted parts' last calls the structures of what they return, and copies of the tensors in it."""
    held: dict[str, dict[tuple[int, int], tuple[fx.Node, Structure]]] = {}
    for node in graph.nodes:
        for output in outputs_held(node):
            if output.part in wanted:
                held.setdefault(output.part, {})[output.call, output.index] = node, output.structure
    structures: dict[str, Structure] = {}
    copies: dict[str, list[fx.Node]] = {}
    for part, nodes in held.items():
        last = max(call for call, _ in nodes)
        structure = next(structure for (call, _), (_, structure) in nodes.items() if call == last)
        indices = range(len(structure.names))
        if all((last, index) in nodes for index in indices):
            structures[part] = structure
            copies[part] = []
            for node in (nodes[last, index][0] for index in indices):
                with graph.inserting_after(node):
                    copies[part].append(graph.call_function(_copied, (node,)))
    return structures, copies


def _copied(value: Any) -> Any:
    """A tensor, or nested ones, as they are before any operator works on them in place."""
    return pytree.tree_map_only(Tensor, Tensor.clone, value)
