"""Write a file atomically: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to. It becomes ``path`` when the block ends, and vanishes after an error.

    The name keeps its suffix, and the file gets the permissions of any new file, whatever its writer gave it. OSError
    goes through.
    """
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
