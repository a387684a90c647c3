"""Only regular files are opened: a pipe would wait for ever, and a device might never end."""

from __future__ import annotations

import stat
from pathlib import Path

from binmat.errors import InputError


def check_regular_file(path: Path, kind: str) -> None:
    """Raise InputError for a path that is no regular file, nor a link to one. kind: image or video, for the message."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise InputError(f"no such {kind}: {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name.
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder: name an {kind} in it" if kind == "image" else f"{path} is a folder")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a pipe or a device: name a file")
