"""What the fuzzer has to know of a kind of input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Protocol


class Kind(Protocol):
    """A kind of input; it must pickle.

    mutations: how many a full run tries. time_limit: seconds that opening one may take.
    """

    name: str
    mutations: int
    time_limit: float

    def seeds(self) -> list[bytes]:
        """Valid files, the same ones every time."""

    def mutate(self, content: bytes, seeds: Sequence[bytes], chance: Random) -> bytes:
        """One of the seeds, damaged."""

    def open(self, content: bytes, folder: Path) -> None:
        """Read it as binmat does, in an empty folder. Raises BinmatError where binmat refuses it."""
