"""The backends by name."""

from __future__ import annotations

from pathlib import Path

from binmat.backends.backend import Backend
from binmat.backends.lce.backend import LCE
from binmat.errors import UnknownNameError

#: Name of a format -> its backend.
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (LCE,)}


def get_backend(name: str) -> Backend:
    """The backend of a format. Raises UnknownNameError."""
    if name not in BACKENDS:
        raise UnknownNameError("export format", name, BACKENDS)
    return BACKENDS[name]


def backend_of(path: str | Path) -> Backend:
    """The backend of a file, by its suffix; where several fit, the longest one counts. Raises UnknownNameError."""
    name = Path(path).name
    fitting = [backend for backend in BACKENDS.values() if name.endswith(backend.suffix)]
    if not fitting:
        known = (backend.suffix for backend in BACKENDS.values())
        raise UnknownNameError("model file suffix", Path(path).suffix or name, known)
    return max(fitting, key=lambda backend: len(backend.suffix))
