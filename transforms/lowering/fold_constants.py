"""Fold what depends on constants alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from binmat.transforms.graph_pass import GraphPass

from .constants import add_constant, clean_up, constant, is_constant
from .one_float_type import OneFloatType


class FoldConstants(GraphPass[fx.GraphModule]):
    """Replaces every node that depends on constants alone by its value, computed in float64 and rounded once.

    Rounding on the way could end on the other side of a ``floor``, as in the places that grid_sample reads.
    """

    def apply(self, lowered: fx.GraphModule) -> fx.GraphModule:
        #: Nodes with several results, which only their users can replace, and constants before they were rounded.
        results: dict[fx.Node, Any] = {}

        def known(node: fx.Node) -> Any:
            return results[node] if node in results else constant(lowered, node)

        for node in list(lowered.graph.nodes):
            inputs = node.all_input_nodes
            if node.op != "call_function" or not all(is_constant(n) or n in results for n in inputs):
                continue
            args, kwargs = map_arg((node.args, node.kwargs), known)
            with torch.no_grad(), OneFloatType(torch.float64):
                value = node.target(*args, **kwargs)
            if isinstance(value, Tensor):
                rounded = value.to(node.meta["val"].dtype, copy=True)
                folded = add_constant(lowered, node, rounded)
                results[folded] = value
                node.replace_all_uses_with(folded)
            else:
                results[node] = value
                _spell_out(node, value)
        return clean_up(lowered)


def _spell_out(node: fx.Node, value: Any) -> None:
    """Where the value is a number, write it into the calls that read the node."""
    if isinstance(value, (bool, int, float)):
        for user in list(node.users):
            user.args, user.kwargs = map_arg((user.args, user.kwargs), lambda n: value if n is node else n)
