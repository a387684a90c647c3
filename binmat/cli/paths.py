"""Paths that a command needs, looked for before PyTorch is imported, which takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from binmat.data.regular_file import check_regular_file
from binmat.errors import CheckpointError


def check_models(*paths: Path) -> None:
    """Raise CheckpointError for the first checkpoint or converted folder that does not exist, or is a pipe or so."""
    for path in paths:
        if not _exists(path):
            raise CheckpointError(f"no such file: {path}: check the path")
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise CheckpointError(f"{path} is a pipe or a device: name a file")


def check_folder(path: Path) -> None:
    """Raise CheckpointError for a converted folder that does not exist."""
    if not _exists(path):
        raise CheckpointError(f"{path} does not exist: name a folder that binmat convert wrote")


def check_images(*paths: Path | None) -> None:
    """Raise InputError for the first image, video or folder of frames that is given and does not exist, and so on."""
    for path in paths:
        if path is not None and not os.path.isdir(path):
            check_regular_file(path, "image")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # Whoever opens it says why that fails.
