"""Python's garbage collector while graphs are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_waits() -> Iterator[None]:
    """No garbage collection; what nothing refers to is freed at once all the same.

    A graph is many small objects that stay. At their number the collector would go through all objects of torch again
    and again, which takes a third of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
