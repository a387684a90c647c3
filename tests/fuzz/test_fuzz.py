"""A short slice of ``make fuzz``, and the proof that the fuzzer notices what it is there for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest

from binmat.errors import CheckpointError, PolicyError
from fuzz.kind import Kind
from fuzz.kinds import KINDS
from fuzz.mark import leave
from fuzz.model_files import InterpretedModelFiles
from fuzz.runner import Tally, run, table

SLICE = {kind.name: max(30, kind.mutations // 40) for kind in KINDS} | {InterpretedModelFiles.name: 6, "reports": 10}


def test_a_slice_of_every_kind() -> None:
    """In one test: the server that workers are forked from takes some seconds to start."""
    for kind in KINDS:
        tally = Tally(kind.name)
        for result in run(kind, range(SLICE[kind.name]), seed=0, workers=1):
            tally.add(result)
        assert not tally.faults, (kind.name, tally.faults[0].index, tally.faults[0].detail)
        assert tally.outcomes.total() == SLICE[kind.name]
        assert tally.outcomes["refused"] > 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_files_that_are_damaged_are_valid(kind: Kind, tmp_path: Path) -> None:
    for seed in kind.seeds():
        with suppress(PolicyError):  # A recipe may name layers that the small network does not have.
            kind.open(seed, tmp_path)


def test_a_mutation_is_the_same_every_time() -> None:
    kind = KINDS[0]
    first, second = (kind.mutate(kind.seeds()[0], kind.seeds(), Random("7")) for _ in range(2))
    assert first == second


class Misbehaving:
    """A reader with every fault that the fuzzer looks for."""

    name = "misbehaving"
    mutations = 0
    time_limit = 2.0
    faults: ClassVar[dict[str, Callable[[], object]]] = {
        "accepted": lambda: None,
        "refused": lambda: _raise(CheckpointError("net.pth is empty: copy it again")),
        "traceback": lambda: _raise(KeyError("x")),
        "hang": lambda: time.sleep(60),
        "died": lambda: os.abort(),
        "ran code": leave,
        "traceback of memory": lambda: bytearray(2**30),
        "ran code in a process": lambda: os.system("true"),
    }

    def seeds(self) -> list[bytes]:
        return [fault.encode() for fault in self.faults]

    def mutate(self, content: bytes, seeds: Sequence[bytes], chance: Random) -> bytes:
        return content

    def open(self, content: bytes, folder: Path) -> None:
        self.faults[content.decode()]()


def _raise(error: Exception) -> None:
    raise error


def test_every_fault_is_noticed() -> None:
    kind, tally = Misbehaving(), Tally("misbehaving")
    for result in run(kind, range(len(kind.faults)), seed=0, workers=1, memory=2**29):
        assert list(kind.faults)[result.index].startswith(result.outcome), result
        tally.add(result)
    assert len(tally.faults) == 6
    assert tally.slowest >= kind.time_limit and tally.slowest_index == list(kind.faults).index("hang")
    row = table([tally]).splitlines()[-1].split()
    assert row[:8] == ["misbehaving", "8", "1", "1", "2", "1", "1", "2"]
