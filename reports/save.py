"""Atomic writes of text in the form that a suffix names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from binmat.atomic_write import atomic_write
from binmat.errors import InputError, UnknownNameError


def save_as(path: str | Path, forms: Mapping[str, Callable[[], str]]) -> None:
    """Write a text file atomically, in the form that the path's suffix names.

    Raises UnknownNameError for a suffix without a form, InputError where the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in forms:
        raise UnknownNameError("report format", path.suffix or path.name, forms)
    text = forms[path.suffix]()
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
