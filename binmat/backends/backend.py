"""What a backend is: it writes a lowered graph as a model file, and runs such files."""

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
        """One frame. Inputs and outputs in the graph's order, NCHW. Raises ExportError where they do not fit."""
        ...


class Model(Protocol):
    """A lowered graph as it was written."""

    @property
    def content(self) -> bytes:
        """The file."""
        ...

    @property
    def form(self) -> str:
        """How it differs from the file that ships, such as ``portable form``; empty for that file itself."""
        ...

    @property
    def stored(self) -> Mapping[str, object]:
        """Node -> where its value lies in the file.

        Missing are nodes that were folded into constants, or taken over by the operator that reads them.
        """
        ...

    def values(
        self, groups: Sequence[Group], inputs: Sequence[Tensor], kernel: str
    ) -> Iterator[tuple[list[Group], Mapping[str, Tensor]]]:
        """Run one frame and hand out the values of nodes: each group once, when all its values are there.

        groups: of stored nodes. inputs: as for :meth:`Runner.run`. A backend that cannot hold every value at once hands
        out as many groups at a time as fit into memory. Values are in torch's layout, bits as +-1.
        """
        ...


class Backend(Protocol):
    """One format of model files.

    name: in ``--formats`` and in reports. title: in messages. suffix: of its files, with the dot. kernels: of its
    interpreter, the default first, all of which verification runs; empty where there is one and it has no name.
    """

    name: str
    title: str
    suffix: str
    kernels: tuple[str, ...]

    def write(self, lowered: LoweredGraph, kernel: str | None = None) -> Model:
        """The graph as a model. kernel: one that must be able to run it; None gives the file that ships.

        Raises ExportError where an operator cannot be written exactly, naming layer, node and operator.
        """
        ...

    def runner(self, content: bytes, kernel: str) -> Runner:
        """Load a file. kernel: one of ``kernels``, or empty where there are none.

        Raises ExportError for a file that is damaged, MissingExtraError where the interpreter is not installed.
        """
        ...
