"""A mask on its way through a graph to the layers that it restricts."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from binmat.errors import PolicyError

from .subgraph import outside


class MaskRoute:
    """The mask of one graph, enlarged once to each size that is asked for. after: the part whose output makes it."""

    def __init__(self, graph: fx.Graph, mask: fx.Node | None, after: str) -> None:
        self.graph = graph
        self.mask = mask
        self.after = after
        self.order = {node: index for index, node in enumerate(graph.nodes)}
        self.size_of: dict[fx.Node, fx.Node] = {}
        self.sized: dict[fx.Node, fx.Node] = {}

    def same_size(self, node: fx.Node, as_this: Any) -> None:
        """Note that two tensors have one height and width."""
        self.size_of[node] = self._origin(as_this)

    def mask_for(self, user: fx.Node, x: Any, target: str) -> fx.Node:
        """The mask at the size of x, made before user, for the target that user ends."""
        if self.mask is None or self.order[self.mask] > self.order[user]:
            raise PolicyError(
                f"'{target}' runs before the mask is known, which comes behind '{self.after}': "
                "leave it out of the targets, or put the mask head earlier"
            )
        origin = self._origin(x)
        if origin not in self.sized:
            with self.graph.inserting_before(max(origin, self.mask, key=self.order.__getitem__).next):
                shape = self.graph.call_function(getattr, (origin, "shape"))
                size = tuple(self.graph.call_function(operator.getitem, (shape, dim)) for dim in (2, 3))
                options: dict[str, Any] = {"size": size, "mode": "bilinear", "align_corners": False}
                self.sized[origin] = self.graph.call_function(F.interpolate, (self.mask,), options)
            for node in (shape, *size, self.sized[origin]):
                node.meta["nn_module_stack"] = outside(user)
        return self.sized[origin]

    def _origin(self, node: fx.Node) -> fx.Node:
        """The tensor that this one was split from, or one of the same size."""
        while node not in self.size_of:
            whole = _split_by_channels(node)
            if whole is None:
                return node
            node = whole
        return self.size_of[node]


def _split_by_channels(node: fx.Node) -> fx.Node | None:
    """The tensor that this one is some channels of; None where it is no such part."""
    if node.target is not operator.getitem or not isinstance(node.args[1], int):
        return None
    parts: Any = node.args[0]
    if parts.target not in ("chunk", "split", torch.chunk, torch.split):
        return None
    dim = parts.args[2] if len(parts.args) > 2 else parts.kwargs.get("dim", 0)
    return parts.args[0] if dim == 1 else None
