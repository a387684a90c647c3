"""The counting conventions by name."""

from __future__ import annotations

from binmat.errors import UnknownNameError

from .bimatting import BIMATTING
from .convention import Convention
from .fvcore import FVCORE
from .textbook import TEXTBOOK

#: The columns of every report.
CONVENTIONS: dict[str, Convention] = {convention.name: convention for convention in (TEXTBOOK, BIMATTING)}
#: Counted for float networks only, to be compared with what other programs print.
CROSS_CHECKS: dict[str, Convention] = {convention.name: convention for convention in (FVCORE,)}


def get_convention(name: str) -> Convention:
    """A convention by name. Raises UnknownNameError."""
    known = CONVENTIONS | CROSS_CHECKS
    if name not in known:
        raise UnknownNameError("counting convention", name, known)
    return known[name]
