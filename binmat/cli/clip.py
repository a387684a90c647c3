"""The images and folders of frames that commands read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from binmat.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def frame_paths(path: Path) -> list[Path]:
    """An image by itself, or the images of a folder in the order of their names, numbers by value.

    Raises InputError for a path that does not exist and a folder without images.
    """
    from binmat.data.image import SUFFIXES

    if not path.is_dir():
        return [path]
    try:
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"folder {path} cannot be read ({error.strerror}): check its permissions") from error
    found = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(f"{path} holds no images ({', '.join(SUFFIXES)}): name a folder of frames")
    return sorted(found, key=lambda entry: _natural(entry.name))


def read_clip(path: Path) -> Iterator[Tensor]:
    """The pictures of a clip one by one, [1, 3, H, W] in [0, 1]. Raises InputError, for the path itself at once."""
    from binmat.data.image import read_image

    return map(read_image, frame_paths(path))


def _natural(name: str) -> list[tuple[int, str]]:
    """frame2 before frame10."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
