"""Write the files of a folder atomically: all of them, or none after an error."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from binmat.errors import InputError


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder to write into. Its files move into the target when the block ends without an error.

    They replace files of the same name. After an error the target is as it was before.
    Raises InputError where the target is a file or cannot be written.
    """
    try:
        if target.exists() and not target.is_dir():
            raise InputError(f"{target} is a file: name a folder to write to")
        # On the disk of the target: inside it where it exists, else in the nearest parent that exists.
        place = next(path for path in (target, *target.parents) if path.exists())
        stage = place / f".binmat-{os.getpid()}"
        stage.mkdir()
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        with _termination_raises():
            yield stage
        _move(stage, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that the temporary folder is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _move(stage: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        stage.rename(target)
        return
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    for file in files:
        _check_free(target, file.relative_to(stage))
    for file in files:
        place = target / file.relative_to(stage)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)


def _check_free(target: Path, file: Path) -> None:
    """Raise InputError for a file where a folder must be, or a folder where the file must be."""
    taken = [
        target / parent for parent in file.parents if (target / parent).exists() and not (target / parent).is_dir()
    ]
    if (target / file).is_dir():
        taken.append(target / file)
    if taken:
        raise InputError(f"{taken[0]} is in the way of {target / file}: move it, or name another folder")


def _unwritable(target: Path, error: OSError) -> InputError:
    return InputError(f"{target} cannot be written ({error.strerror or error}): name another folder")
