"""Rows of convolution, norm and activation, and the masked paths that they become."""

from __future__ import annotations

import copy
import operator
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from binmat.model_defs.network import Network
from binmat.nn.masked_path import MaskedPath

from .mask_route import MaskRoute
from .part_calls import hand_over
from .patterns import activation_module, called_module, only_user, operator_at, parameters_read, row_of
from .subgraph import add_module, call_module
from .swap import remove, remove_unread, swap
from .trace import graphs


@dataclass(frozen=True)
class Chain:
    """Nodes that follow each other directly: convolutions, their norms and activations."""

    nodes: tuple[fx.Node, ...]
    convs: tuple[str, ...]


@dataclass(frozen=True)
class _Path:
    """A masked path and its companion, by the names they get, and the modules whose places they take."""

    name: str
    companion_name: str
    masked: MaskedPath
    companion: nn.Sequential
    taken: tuple[str, ...]


class MaskedRows:
    """Rows of convolution, norm and activation, and the masked paths that they become."""

    def __init__(self, network: Network, convs: set[str]) -> None:
        self.network = network
        self.convs = convs
        self.paths: dict[tuple[str, ...], _Path] = {}
        #: Old name of a convolution -> its name in the masked path, and that of the 1x1 beside it.
        self.moved: dict[str, str] = {}
        self.companions: dict[str, str] = {}
        #: Parameters that functions read and that are now a module's.
        self.parameters: set[str] = set()

    def chains(self, graph: fx.Graph) -> list[Chain]:
        chains: list[Chain] = []
        taken: set[fx.Node] = set()
        for node in graph.nodes:
            if not self._is_target(node) or node in taken:
                continue
            nodes: list[fx.Node] = []
            convs: list[str] = []
            following: fx.Node | None = node
            while following is not None and self._is_target(following):
                row = self._row(following)
                nodes += row
                convs.append(str(following.target))
                following = only_user(row[-1])
            taken.update(nodes)
            chains.append(Chain(tuple(nodes), tuple(convs)))
        return chains

    def _is_target(self, node: fx.Node) -> bool:
        return node.op == "call_module" and node.target in self.convs

    def _row(self, conv: fx.Node) -> list[fx.Node]:
        tail, activation = row_of(conv, self.network)
        norm = operator_at(tail, self.network)
        if tail is not conv and not (tail.op == "call_module" and norm is not None and norm.pointwise):
            # Other norms look at the whole map, which is there only once both paths are added.
            return [conv]
        row = [conv] if tail is conv else [conv, tail]
        return row if activation is None else [*row, activation]

    def rewrite(self, graph: fx.Graph, chain: Chain, route: MaskRoute) -> None:
        path = self.paths.get(chain.convs)
        if path is None:
            path = self.paths[chain.convs] = self._build(chain)
        first, last = chain.nodes[0], chain.nodes[-1]
        x = first.args[0]
        mask = route.mask_for(last, x, chain.convs[0])
        with graph.inserting_before(last):
            masked = call_module(graph, path.name, (x, mask), first)
            y: Any = x
            for index in range(len(path.companion)):
                y = call_module(graph, f"{path.companion_name}.{index}", (y,), first)
            total = graph.call_function(operator.add, (masked, y))
        total.meta["nn_module_stack"] = masked.meta["nn_module_stack"]
        route.same_size(total, x)
        last.replace_all_uses_with(total)
        # Without the 1x1 convolutions no single layer of the row gives the row's result any more.
        hand_over(last, total, besides=[node.target for node in chain.nodes])
        for node in reversed(chain.nodes):
            graph.erase_node(node)

    def _build(self, chain: Chain) -> _Path:
        modules = [self._module(node) for node in chain.nodes]
        names = [str(node.target) if node.op == "call_module" else None for node in chain.nodes]
        parent = chain.convs[0].rpartition(".")[0]
        holder = self.network.get_submodule(parent)
        whole = isinstance(holder, nn.Sequential) and names == [f"{parent}.{key}" for key, _ in holder.named_children()]
        name = parent if whole else chain.convs[0]
        keys = [str(n).rpartition(".")[2] if whole else str(i) for i, n in enumerate(names)]
        for old, key in zip(names, keys, strict=True):
            if old in self.convs:
                self.moved[str(old)] = f"{name}.{key}"
        free = self._free_name(name)
        for index, old in enumerate(names):
            if old in self.convs:
                self.companions[str(old)] = f"{free}.{index}"
        masked = MaskedPath(OrderedDict(zip(keys, modules, strict=True)))
        masked.training = modules[0].training  # The layers in it keep theirs.
        return _Path(
            name=name,
            companion_name=free,
            masked=masked,
            companion=nn.Sequential(*map(_companion, modules)).train(masked.training),
            taken=tuple(str(n) for n in names if n not in (None, name) and not whole),
        )

    def _module(self, node: fx.Node) -> nn.Module:
        module = called_module(node, self.network)
        if module is None:
            self.parameters |= parameters_read(node)
            return activation_module(node, self.network)
        # What has no weights may serve elsewhere too.
        return module if any(True for _ in module.parameters()) else copy.deepcopy(module)

    def _free_name(self, name: str) -> str:
        """Beside the path, but in no Sequential, which would run it."""
        base = name
        while isinstance(self.network.get_submodule(base.rpartition(".")[0]), (nn.Sequential, nn.ModuleList)):
            base = base.rpartition(".")[0]
        used = {path.companion_name for path in self.paths.values()}
        holder = self.network.get_submodule(base.rpartition(".")[0])
        free, number = f"{base}_1x1", 1
        while free in used or hasattr(holder, free.rpartition(".")[2]):
            number += 1
            free = f"{base}_1x1_{number}"
        return free

    def install(self) -> None:
        """Put the paths in their places, once every graph is rewritten."""
        called = {node.target for graph in graphs(self.network).values() for node in graph.nodes}
        taken = {name for path in self.paths.values() for name in path.taken if name not in called}
        for name in taken:
            remove(self.network, name)
        for path in self.paths.values():
            swap(self.network, {path.name: path.masked})
            add_module(self.network, path.companion_name, path.companion)
        remove_unread(self.network, self.parameters)


def _companion(module: nn.Module) -> nn.Module:
    """The layer's part in the dense 1x1 path, fresh."""
    if isinstance(module, nn.Conv2d):
        bias, like = module.bias is not None, module.weight
        return nn.Conv2d(module.in_channels, module.out_channels, 1, bias=bias, device=like.device, dtype=like.dtype)
    fresh = copy.deepcopy(module)
    if isinstance(fresh, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        fresh.reset_parameters()
    return fresh
