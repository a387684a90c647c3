"""Paths that a command needs, looked for before PyTorch is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path

from binmat.errors import CheckpointError, InputError


def check_models(*paths: Path) -> None:
    """Raise CheckpointError for the first checkpoint or converted folder that does not exist."""
    for path in paths:
        if not _exists(path):
            raise CheckpointError(f"no such file: {path}: check the path")


def check_folder(path: Path) -> None:
    """Raise CheckpointError for a converted folder that does not exist."""
    if not _exists(path):
        raise CheckpointError(f"{path} does not exist: name a folder that binmat convert wrote")


def check_images(*paths: Path | None) -> None:
    """Raise InputError for the first image, video or folder of frames that is given and does not exist."""
    for path in paths:
        if path is not None and not _exists(path):
            raise InputError(f"no such image: {path}")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # Whoever opens it says why that fails.
