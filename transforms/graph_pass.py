"""What every rewrite of a graph has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import nn

from binmat.model_defs.network import Network

#: What a pass rewrites.
Rewritten = TypeVar("Rewritten", bound=nn.Module)


@dataclass(eq=False)
class GraphPass(ABC, Generic[Rewritten]):
    """A rewrite of a traced network (``GraphPass[Network]``) or of a lowered graph (``GraphPass[fx.GraphModule]``).

    notes: layer -> what :meth:`apply` did to it that an observer would miss, one sentence; reports show them.

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


@dataclass(eq=False)
class DeferredPass(GraphPass[Network]):
    """A pass that is made when the network is known, by a function that reads it.

    make: the network, traced and rewritten by the passes before -> the pass to apply.
    """

    make: Callable[[Network], GraphPass[Network]]

    def apply(self, subject: Network) -> Network:
        made = self.make(subject)
        made.apply(subject)
        self.notes |= made.notes
        return subject
