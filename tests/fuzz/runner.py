"""Runs mutations in worker processes, replaces those that hang or die, and counts what came of it."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess

from tabulate import tabulate

from fuzz.kind import Kind
from fuzz.worker import Result, work

#: What a file may come to without a fault.
GOOD = ("accepted", "refused")
#: Bytes that opening one file may add to a process.
MEMORY = 2**30
#: Seconds in which a worker must have its valid files.
_START_LIMIT = 300.0
_COLUMNS = {"traceback": "tracebacks", "hang": "hangs", "died": "deaths", "ran code": "code run"}


@dataclass
class Tally:
    """What all mutations of one kind came to."""

    kind: str
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    slowest_index: int = 0
    peak: int = 0
    faults: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.outcomes[result.outcome] += 1
        if result.seconds > self.slowest:
            self.slowest, self.slowest_index = result.seconds, result.index
        self.peak = max(self.peak, result.peak)
        if result.outcome not in GOOD:
            self.faults.append(result)


def run(kind: Kind, indices: Iterable[int], seed: int, workers: int = 2, memory: int = MEMORY) -> Iterator[Result]:
    """Try the mutations with these indices, each in a process that has its seeds; the results as they come."""
    left = iter(indices)
    busy: dict[Connection, _Worker] = {}
    for _ in range(workers):
        started = _Worker(kind, seed, memory)
        busy[started.connection] = started
    try:
        while busy:
            limit = min(worker.deadline for worker in busy.values())
            wait(list(busy), max(0.0, limit - time.monotonic()))
            for worker in list(busy.values()):
                answer = worker.answer()
                if answer is _BUSY:
                    continue
                if isinstance(answer, Result):
                    yield answer
                if not worker.alive:
                    del busy[worker.connection]
                    worker = _Worker(kind, seed, memory)
                    busy[worker.connection] = worker
                elif (index := next(left, None)) is not None:
                    worker.start(index)
                else:
                    worker.end()
                    del busy[worker.connection]
    finally:
        for worker in busy.values():
            worker.end()


#: A worker has not answered yet, and has time left.
_BUSY = object()


@cache
def _context() -> ForkServerContext:
    """Workers are forked from a server that is warm: they start at once."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["fuzz.warm"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # The server ignores sys.path.
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


class _Worker:
    """A process that opens one file at a time. index: of the one that it opens; None while it makes its seeds."""

    def __init__(self, kind: Kind, seed: int, memory: int) -> None:
        context = _context()
        self.kind = kind
        self.connection, theirs = context.Pipe()
        self.process: ForkServerProcess = context.Process(target=work, args=(theirs, kind, seed, memory), daemon=True)
        self.process.start()
        theirs.close()
        self.index: int | None = None
        self.late = False
        self.started = time.monotonic()
        self.deadline = self.started + _START_LIMIT

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def start(self, index: int) -> None:
        self.index = index
        self.started = time.monotonic()
        self.deadline = self.started + self.kind.time_limit
        self.connection.send(index)

    def answer(self) -> object:
        """A Result, None when it has started, or _BUSY. Ends a process that is late. Raises where it cannot start."""
        try:
            if self.connection.poll():
                return self.connection.recv()
            if time.monotonic() < self.deadline:
                return _BUSY
            self.late = True
            outcome, detail = "hang", f"it took more than {self.kind.time_limit:g} s"
        except (EOFError, ConnectionError):
            self.process.join(10)
            outcome, detail = "died", f"the process ended with {self.process.exitcode}"
        self.end()
        if self.index is None:
            raise RuntimeError(f"the worker of {self.kind.name} did not start: {detail}")
        return Result(self.index, outcome, detail, time.monotonic() - self.started, 0)

    def end(self) -> None:
        with suppress(OSError):
            self.connection.send(None)
            self.process.join(0 if self.late else 5)
        self.process.kill()
        self.process.join()
        self.connection.close()


def table(tallies: Iterable[Tally]) -> str:
    """One row for each kind."""
    rows = [
        {
            "kind": tally.kind,
            "mutations": tally.outcomes.total(),
            **{outcome: tally.outcomes[outcome] for outcome in GOOD},
            **{title: tally.outcomes[outcome] for outcome, title in _COLUMNS.items()},
            "slowest, s": f"{tally.slowest:.1f} (index {tally.slowest_index})",
            "peak, MB": f"{tally.peak / 2**20:.0f}",
        }
        for tally in tallies
    ]
    return tabulate(rows, headers="keys")
