"""Write the files of a folder atomically: all of them, or none after an error."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from binmat.errors import InputError
from binmat.stage import move_files, ready, stage


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder to write into. Its files move into the target when the block ends without an error.

    They replace files of the same name. After an error the target is as it was before. After a kill too; a kill while
    the files move is made good by the next run that writes there or reads a conversion there.
    Raises InputError where the target is a file or cannot be written.
    """
    try:
        if target.exists() and not target.is_dir():
            raise InputError(f"{target} is a file: name a folder to write to")
        # On the disk of the target: inside it where it exists, else in the nearest parent that exists.
        place = next(path for path in (target, *target.parents) if path.exists())
        with stage(place) as folder:
            with _on_end_signals(lambda number, _: sys.exit(128 + number), signal.SIGTERM, signal.SIGHUP):
                yield folder
            # Moving takes milliseconds; half of it would be worse than a signal that comes too late.
            with _on_end_signals(signal.SIG_IGN, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                _move(folder, target)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error.strerror or error}): name another folder") from error


@contextmanager
def _on_end_signals(
    handler: Callable[[int, FrameType | None], object] | signal.Handlers, *signals: signal.Signals
) -> Iterator[None]:
    """Handle signals this way within the block. What the process ignores already, as under nohup, it goes on to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    # None: a handler that is not Python's and could not be put back.
    ours = [number for number in signals if before[number] not in (signal.SIG_IGN, None)]
    for number in ours:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def _move(folder: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
        return
    for file in folder.rglob("*"):
        if file.is_file():
            _check_free(target, file.relative_to(folder))
    complete = folder.rename(ready(folder))
    move_files(complete, target)


def _check_free(target: Path, file: Path) -> None:
    """Raise InputError for a file where a folder must be, or a folder where the file must be."""
    taken = [
        target / parent for parent in file.parents if (target / parent).exists() and not (target / parent).is_dir()
    ]
    if (target / file).is_dir():
        taken.append(target / file)
    if taken:
        raise InputError(f"{taken[0]} is in the way of {target / file}: move it, or name another folder")
