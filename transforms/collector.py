"""Python's garbage collector while graphs are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_LOCK = Lock()
#: How many calls have it wait, and whether it ran before the first of them.
_waiting = 0
_ran = True


@contextmanager
def collector_waits() -> Iterator[None]:
    """No garbage collection; what nothing refers to is freed at once all the same.

    A graph is many small objects that stay. At their number the collector would go through all objects of torch again
    and again, which takes a third of the time.
    """
    global _waiting, _ran
    with _LOCK:
        if not _waiting:
            _ran = gc.isenabled()
            gc.disable()
        _waiting += 1
    try:
        yield
    finally:
        with _LOCK:
            _waiting -= 1
            if not _waiting and _ran:
                gc.enable()
