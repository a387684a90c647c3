"""Memory that was freed is taken again, not asked of the system anew."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from binmat.allocator import ENVIRONMENT

#: Bytes per array, and how many are made and freed one after the other.
SIZE, TIMES = 40 * 2**20, 20
PROGRAM = f"""
import resource, sys
import numpy as np
from binmat.allocator import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TIMES}):
    np.ones({SIZE}, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*arguments: str, **environment: str) -> int:
    plain = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    # numpy asks for large pages by itself, which would hide what is measured.
    environment = {**plain, "NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_kept_by_the_program_and_by_processes_that_it_starts() -> None:
    pages = SIZE // os.sysconf("SC_PAGE_SIZE")
    assert page_faults() > pages * TIMES / 2
    assert page_faults("keep") < 2 * pages
    assert page_faults(**ENVIRONMENT) < 2 * pages
