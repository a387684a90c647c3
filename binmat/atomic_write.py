"""Write a file atomically: the whole file, or nothing after an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to, beside ``path``. It is renamed to ``path`` at the end, or removed after an error.

    It keeps the suffix of ``path``. The file gets the permissions of any new file, whatever its writer set. An OSError
    is passed on.
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
