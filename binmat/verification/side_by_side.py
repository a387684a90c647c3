"""Runs the parts of a verification side by side, as many at a time as there are cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeVar

import torch

T = TypeVar("T")
#: Says that a step of the work is done.
Step = Callable[[], None]


class Parts:
    """The parts of a job; see :func:`side_by_side`."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._parts: list[Future[Any]] = []
        self._stopped = Event()
        #: True for a step, False for the end of a part.
        self._events: SimpleQueue[bool] = SimpleQueue()

    def start(self, work: Callable[[Step], T]) -> Future[T]:
        """Begin a part as soon as a core is free, in the order of the calls. work: gets what it calls after a step."""
        part = self._pool.submit(work, self._step)
        self._parts.append(part)
        part.add_done_callback(lambda _: self._events.put(False))
        return part

    def finish(self, step: Step) -> None:
        """Wait for all parts. step: called in this thread after each step of a part. Raises the first error."""
        running = len(self._parts)
        while running:
            if self._events.get():
                step()
                continue
            running -= 1
            for part in self._parts:
                if part.done():
                    part.result()

    def stop(self) -> None:
        """Begin no more parts, and end those that run at their next step."""
        self._stopped.set()
        for part in self._parts:
            part.cancel()

    def _step(self) -> None:
        if self._stopped.is_set():
            raise RuntimeError("another part has failed")
        self._events.put(True)


@contextmanager
def side_by_side() -> Iterator[Parts]:
    """Threads for the parts of a job, each with one thread of torch, so that their number changes no result.

    Threads suffice: torch and the wait for another process leave the interpreter free. Nothing may trace a network
    meanwhile: tracing patches torch for the whole process.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(_cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = Parts(pool)
            try:
                yield parts
            finally:
                parts.stop()
    finally:
        torch.set_num_threads(threads)


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
