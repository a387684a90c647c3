"""How binmat's own processes take memory from the system: large pages, and what is freed is kept for the next tensor.

A tensor in fresh small pages costs more time for the system than for the arithmetic on it. A library does not decide
this for a whole process, so only binmat's program does, and the processes that it starts.
"""

from __future__ import annotations

import ctypes
import os

#: Bytes from which a freed block, or free memory at the end of the heap, goes back to the system.
_KEPT = 2**28
#: glibc's numbers of these settings (malloc.h) -> their values.
_SETTINGS = {-3: _KEPT, -1: _KEPT, -8: 1}  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX
#: For torch, read when it is imported.
_LARGE_PAGES = ("THP_MEM_ALLOC_ENABLE", "1")
#: The same for a process that is started with it.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(_KEPT),
    "MALLOC_TRIM_THRESHOLD_": str(_KEPT),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    _LARGE_PAGES[0]: _LARGE_PAGES[1],
}


def keep_freed_memory() -> None:
    """Set this process up, before torch is imported. Does nothing where the C library is not glibc."""
    os.environ.setdefault(*_LARGE_PAGES)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for setting, value in _SETTINGS.items():
            mallopt(setting, value)
