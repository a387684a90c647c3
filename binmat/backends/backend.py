"""What a backend does: it writes a lowered graph as a model file, and runs such files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from binmat.transforms.lowering.lowered_graph import LoweredGraph

#: Names of nodes of a lowered graph whose values are needed together.
Group = tuple[str, ...]


class Runner(Protocol):
    """A model file loaded into its interpreter."""

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run one frame. Inputs and outputs are NCHW, in the graph's order. Raises ExportError for wrong inputs."""
        ...


class Model(Protocol):
    """A lowered graph, written by a backend."""

    @property
    def content(self) -> bytes:
        """The bytes of the file."""
        ...

    @property
    def form(self) -> str:
        """How it differs from the file that ships, such as ``portable form``; empty for that file itself."""
        ...

    @property
    def stored(self) -> Mapping[str, object]:
        """Node -> where its value lies in the file.

        Nodes that were folded into constants, or fused into the operator that reads them, are missing. What the graph
        computes for its outputs must be there: it is compared with what the file puts out.
        """
        ...

    def values(
        self, groups: Sequence[Group], inputs: Sequence[Tensor], kernel: str
    ) -> Iterator[tuple[list[Group], Mapping[str, Tensor]]]:
        """Run one frame and yield (groups that are complete, values of their nodes), each group once.

        groups: of stored nodes. inputs: as for :meth:`Runner.run`. A backend that cannot hold every value at once
        yields as many groups at a time as fit into memory. Values are in torch's layout, bits as +-1.
        """
        ...


class Backend(Protocol):
    """One format of model files.

    name: what ``--formats`` and reports call it. title: what messages call it. suffix: of its files, with the dot.
    kernels: of its interpreter, the default first; verification runs them all. Empty if there is only one, without a
    name.
    """

    name: str
    title: str
    suffix: str
    kernels: tuple[str, ...]

    def write(self, lowered: LoweredGraph, kernel: str | None = None) -> Model:
        """Write the graph. kernel: one that must be able to run the model; None gives the file that ships.

        Raises ExportError where an operator cannot be written exactly, naming layer, node and operator.
        """
        ...

    def runner(self, content: bytes, kernel: str) -> Runner:
        """Load a file. kernel: one of ``kernels``, or empty where there are none.

        Raises ExportError for a file that is damaged, MissingExtraError where the interpreter is not installed.
        """
        ...
