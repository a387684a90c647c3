"""Write a text file whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from binmat.errors import InputError, UnknownNameError


def save_as(path: str | Path, forms: Mapping[str, Callable[[], str]]) -> None:
    """Write what the form for the path's suffix gives; to a temporary file, then renamed.

    Raises UnknownNameError for a suffix without a form, InputError where the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in forms:
        raise UnknownNameError("report format", path.suffix or path.name, forms)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(forms[path.suffix](), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
