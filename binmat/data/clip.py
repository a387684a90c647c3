"""A clip: a single image, a folder of frames or a video."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from binmat.errors import InputError

from .image import SUFFIXES, note_on_pages, read_image, read_values
from .video import SUFFIXES as VIDEO_SUFFIXES
from .video import Video, open_video


@dataclass(frozen=True)
class Clip:
    """Consecutive frames. paths: the image files, empty for a video. video: None for image files."""

    path: Path
    paths: list[Path]
    video: Video | None = None

    @property
    def count(self) -> int:
        """How many frames there are; 0 where a video does not say."""
        return self.video.count if self.video else len(self.paths)

    @property
    def files(self) -> list[Path]:
        """The files that the frames are read from."""
        return [self.path] if self.video else self.paths

    def note(self) -> str | None:
        """What the user should know of how the clip is read. Raises InputError."""
        return next(filter(None, map(note_on_pages, self.paths)), None)

    def frames(self) -> Iterator[Tensor]:
        """The frames one by one, [1, 3, H, W] in [0, 1]. Raises InputError."""
        return self.video.frames() if self.video else map(read_image, self.paths)

    def values(self) -> Iterator[Tensor]:
        """The stored values, for trimaps; see :func:`binmat.data.image.read_values`. Raises InputError."""
        return self.video.values() if self.video else map(read_values, self.paths)


def open_clip(path: str | Path) -> Clip:
    """A single image, a video, or the images of a folder in the order of their names (frame2 before frame10).

    Raises InputError for a folder without images and a video that cannot be read.
    """
    path = Path(path)
    if not os.path.isdir(path):
        if path.suffix.lower() in VIDEO_SUFFIXES:
            return Clip(path, [], open_video(path))
        return Clip(path, [path])
    try:
        entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"folder {path} cannot be read ({error.strerror}): check its permissions") from error
    found = [entry for entry in entries if entry.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(f"{path} holds no images ({', '.join(SUFFIXES)}): name a folder of frames")
    return Clip(path, sorted(found, key=lambda entry: _natural(entry.name)))


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]
