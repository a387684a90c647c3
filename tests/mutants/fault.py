"""What a fault is, and how each kind of it is injected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import fx

from binmat.backends.lce import emitter
from binmat.backends.lce.tflite.builder import ModelBuilder, Named
from binmat.transforms.lowering import lower as lower_module
from binmat.transforms.lowering.constants import clean_up

#: Where a fault strikes. "lowering": the lowered graph, whatever its precision. "float32": the lowered graph that is
#: written, not the one in float64. "writer": the operators and constants of the file. "patch": any other function.
#: "file": the bytes of the file. "weights": the network's weights after the file was written.
Place = Literal["lowering", "float32", "writer", "patch", "file", "weights"]


@dataclass(frozen=True)
class Fault:
    """One fault. name: in plain words. subject: the network that it strikes.

    change: what it does, in place. It gets the graph of a lowering, the :class:`ModelBuilder` of the writer, the bytes
    of a file (as a bytearray) or a dictionary of the weights; of a patch it is the context in which it is in force.
    """

    name: str
    place: Place
    subject: str
    change: Callable[..., Any]

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Networks are lowered and written with the fault. Faults of files and weights change nothing here."""
        if self.place in ("lowering", "float32"):
            with _lowering(self.change, only_float32=self.place == "float32"):
                yield
        elif self.place == "writer":
            with patch.object(emitter, "ModelBuilder", _builder(self.change)):
                yield
        elif self.place == "patch":
            with self.change():
                yield
        else:
            yield


@contextmanager
def _lowering(change: Callable[[fx.GraphModule], None], only_float32: bool) -> Iterator[None]:
    class Faulty:
        """The last pass of the lowering."""

        def apply(self, lowered: fx.GraphModule) -> fx.GraphModule:
            inputs = [node.meta["val"] for node in lowered.graph.find_nodes(op="placeholder")]
            if only_float32 and inputs[0].dtype != torch.float32:
                return lowered
            change(lowered)
            clean_up(lowered)
            _WithShapes(lowered).run(*(torch.zeros(value.shape, dtype=value.dtype) for value in inputs))
            return lowered

    with patch.object(lower_module, "LOWERING_PASSES", (*lower_module.LOWERING_PASSES, Faulty)):
        yield


class _WithShapes(fx.Interpreter):
    """Notes the shape that each node has now."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op != "output":
            n.meta["val"] = result
        return result


def _builder(change: Callable[[ModelBuilder], None]) -> type[ModelBuilder]:
    class Faulty(ModelBuilder):
        """Strikes once, when the whole model is written; models of some of its operators then have the fault too."""

        struck = False

        def build(
            self, inputs: Named, outputs: Named, description: str = "", metadata: Mapping[str, bytes] | None = None
        ) -> bytes:
            if not self.struck:
                self.struck = True
                change(self)
            return super().build(inputs, outputs, description, metadata)

    return Faulty


def in_order(faults: Sequence[Fault]) -> dict[str, Fault]:
    """The faults by name. Raises ValueError for a name that stands twice."""
    named = {fault.name: fault for fault in faults}
    if len(named) != len(faults):
        names = [fault.name for fault in faults]
        raise ValueError(f"two faults are called {next(name for name in names if names.count(name) > 1)}")
    return named
