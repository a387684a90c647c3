"""The base class of every rewrite of a graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import nn

#: What a pass rewrites.
Rewritten = TypeVar("Rewritten", bound=nn.Module)


@dataclass(eq=False)
class GraphPass(ABC, Generic[Rewritten]):
    """A rewrite of a traced network (``GraphPass[Network]``) or of a lowered graph (``GraphPass[fx.GraphModule]``).

    notes: layer -> one sentence for reports: what :meth:`apply` did to it that is not seen in its type.

    >>> from binmat.model_defs.network import Network
    >>> from binmat.transforms.trace import trace
    >>> class Freeze(GraphPass[Network]):
    ...     def apply(self, subject):
    ...         for name, layer in subject.named_children():
    ...             layer.requires_grad_(False)
    ...             self.notes[name] = "its weights are not trained"
    ...         return subject
    >>> freeze = Freeze()
    >>> network = freeze.apply(trace(nn.Sequential(nn.Conv2d(3, 8, 1))))
    >>> freeze.notes
    {'0': 'its weights are not trained'}
    """

    notes: dict[str, str] = field(default_factory=dict, init=False)

    @abstractmethod
    def apply(self, subject: Rewritten, /) -> Rewritten:
        """Rewrite the subject, its graphs and its layers, in place, and return it."""
