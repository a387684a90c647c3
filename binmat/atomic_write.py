"""Write a file atomically: the whole file, or nothing after an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from binmat.stage import stage


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path to write to, on the disk of ``path``. It is renamed to ``path`` at the end.

    After an error it is removed. It has the name of ``path``. The file gets the permissions of any new file, whatever
    its writer set. An OSError is passed on.
    """
    with stage(path.parent) as folder:
        temporary = folder / path.name
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
