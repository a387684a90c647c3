"""Remove the nodes of a lowered graph that compute nothing; changes of the memory layout are among them."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from binmat.transforms.graph_pass import GraphPass

from .constants import clean_up

aten = torch.ops.aten
_IDENTITIES = (aten.alias.default, aten.clone.default, aten.detach.default, aten.lift_fresh_copy.default)
_VIEWS = (aten.view.default, aten._unsafe_view.default)


class RemoveNoOps(GraphPass[fx.GraphModule]):
    """Removes aliases, copies, casts to the same type, and reshapes or expansions that keep the shape.

    An input that is returned as an output keeps its alias: a model's output must be a node of its own.
    """

    def apply(self, lowered: fx.GraphModule) -> fx.GraphModule:
        for node in lowered.graph.nodes:
            if self._is_identity(node) and not self._passes_input_on(node):
                node.replace_all_uses_with(node.args[0])
            elif node.target in _VIEWS:
                # A view may need one of the copies that are gone; a reshape does not.
                node.target = aten.reshape.default
        return clean_up(lowered)

    @staticmethod
    def _is_identity(node: fx.Node) -> bool:
        if node.target in _IDENTITIES:
            return True
        if node.target is aten._to_copy.default:
            return bool(node.args[0].meta["val"].dtype == node.meta["val"].dtype)
        if node.target is aten.as_strided.default:
            return _keeps_elements(node)
        reshapes = node.target in (*_VIEWS, aten.expand.default, aten.slice.Tensor)
        return reshapes and node.args[0].meta["val"].shape == node.meta["val"].shape

    @staticmethod
    def _passes_input_on(node: fx.Node) -> bool:
        return node.args[0].op == "placeholder" and any(user.op == "output" for user in node.users)


def _keeps_elements(node: fx.Node) -> bool:
    """Whether an ``as_strided`` gives its operand's elements at the same places; of one element any stride does."""
    operand: Any = node.args[0]
    old, new = operand.meta["val"], node.meta["val"]
    if old.shape != new.shape or old.storage_offset() != new.storage_offset():
        return False
    return all(a == b for a, b, n in zip(old.stride(), new.stride(), new.shape, strict=True) if n != 1)
