"""The counting conventions by name."""

from __future__ import annotations

from binmat.errors import UnknownNameError

from .bimatting import BIMATTING
from .convention import Convention
from .textbook import TEXTBOOK

CONVENTIONS: dict[str, Convention] = {convention.name: convention for convention in (TEXTBOOK, BIMATTING)}


def get_convention(name: str) -> Convention:
    """A convention by name. Raises UnknownNameError."""
    if name not in CONVENTIONS:
        raise UnknownNameError("counting convention", name, CONVENTIONS)
    return CONVENTIONS[name]
