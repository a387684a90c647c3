"""Fold what depends on constants alone."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from binmat.transforms.graph_pass import GraphPass

from .constants import add_constant, clean_up, constant, is_constant


class FoldConstants(GraphPass[fx.GraphModule]):
    """Replaces every node that depends on constants alone by its value."""

    def apply(self, lowered: fx.GraphModule) -> fx.GraphModule:
        for node in list(lowered.graph.nodes):
            if node.op != "call_function" or not all(is_constant(n) for n in node.all_input_nodes):
                continue
            args, kwargs = map_arg((node.args, node.kwargs), lambda n: constant(lowered, n))
            with torch.no_grad():
                value = node.target(*args, **kwargs)
            if isinstance(value, Tensor):
                node.replace_all_uses_with(add_constant(lowered, node, value.detach().clone()))
        return clean_up(lowered)
