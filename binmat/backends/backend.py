"""What a backend does: it writes a lowered graph as a model file, and runs such files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from binmat.transforms.lowering.lowered_graph import LoweredGraph

#: Names of nodes of a lowered graph whose values are needed together.
Group = tuple[str, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of a file. shape: in torch's layout."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Signature:
    """What a file takes and gives, in the order of the graph."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


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

    def alone(
        self, groups: Sequence[Group], operand: Callable[[str], Tensor], kernel: str
    ) -> Iterator[tuple[Group, Mapping[str, Tensor]]]:
        """Run steps of the model by themselves; yield each group with the values of its nodes.

        groups: a stored node, and the stored nodes that it is computed from. operand: gives the values of the latter
        by name, in torch's layout. Where one of them takes +-1, or is a view of another one, the file cannot take every
        value: what is yielded is what was run on.
        """
        ...


class Backend(Protocol):
    """One format of model files.

    name: what ``--formats`` and reports call it. title: what messages call it. suffix: of its files, with the dot.
    kernels: of its interpreter, the default first, which runs whole frames in a verification. The others differ from it
    in the binary operators, and verification runs those by each of them. Empty if there is only one, without a name.
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

    def signature(self, content: bytes) -> Signature:
        """What a file says that it takes and gives.

        Raises ExportError for a file that is damaged, VerificationError where the file contradicts itself.
        """
        ...

    def model_of_file(self, content: bytes, fresh: Any) -> Model:
        """The model that is in a file which should be that of `fresh`, a model that this backend has just written.

        Equal bytes are the fresh model. Where another machine's rounding explains what differs, the result is the fresh
        model with the file's constants. Raises VerificationError in all other cases, naming what differs.
        """
        ...

    def runner(self, content: bytes, kernel: str) -> Runner:
        """Load a file. kernel: one of ``kernels``, or empty where there are none.

        Raises ExportError for a file that is damaged, MissingExtraError where the interpreter is not installed.
        """
        ...
