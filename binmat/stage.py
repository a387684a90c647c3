"""A temporary folder that holds a result until it is complete, and that is recognised once its process is dead."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

_NAME = re.compile(r"\.binmat-[0-9a-f]{32}(\.ready)?")


@contextmanager
def stage(place: Path) -> Iterator[Path]:
    """A new folder inside a folder, removed when the block ends.

    It is locked as long as this process lives: what a killed process left is cleared here. OSErrors are passed on.
    """
    clear_stale_stages(place)
    while True:
        folder = place / f".binmat-{uuid4().hex}"
        folder.mkdir()
        lock = os.open(folder, os.O_RDONLY)
        with suppress(OSError):  # A file system without locks: the stage then counts as alive, see _clear.
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            break
        os.close(lock)  # Another process cleared it between the two calls.
    try:
        yield folder
    finally:
        for path in (folder, ready(folder)):
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def ready(folder: Path) -> Path:
    """What a stage is renamed to when it is complete and its files begin to move into the folder that it is in."""
    return folder.with_name(f"{folder.name}.ready")


def clear_stale_stages(place: Path) -> set[str]:
    """Remove the stages of dead processes from a folder. What was complete is moved to where it was meant to go.

    Returns the names of incomplete stages that are left because their file system has no locks, as NFS may: whether
    their processes live is unknown.
    """
    try:
        names = [name for name in os.listdir(place) if name.startswith(".binmat-") and _NAME.fullmatch(name)]
    except OSError:
        return set()
    return {name for name in names if not _clear(place / name)}


def move_files(folder: Path, target: Path) -> None:
    """Move every file of a folder to the same place in another one, over files of the same name."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        goal = target / file.relative_to(folder)
        goal.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, goal)


def _clear(folder: Path) -> bool:
    """False for an incomplete stage that no lock tells dead or alive."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return True  # It is gone, or somebody else's.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.name.endswith(".ready"):
            move_files(folder, folder.parent)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # Its process lives.
    except OSError:  # The file system has no locks, or a file cannot be moved.
        return folder.name.endswith(".ready")
    finally:
        os.close(lock)
    return True
