"""The counting conventions by name."""

from __future__ import annotations

from collections.abc import Iterable

from binmat.errors import InputError, UnknownNameError

from .bimatting import BIMATTING
from .convention import Convention
from .fvcore import FVCORE
from .textbook import TEXTBOOK

#: The columns of a report that is not told others.
CONVENTIONS: dict[str, Convention] = {convention.name: convention for convention in (TEXTBOOK, BIMATTING)}
#: Counted for float networks only, to be compared with what other programs print.
CROSS_CHECKS: dict[str, Convention] = {convention.name: convention for convention in (FVCORE,)}


def get_convention(convention: str | Convention) -> Convention:
    """A convention by name, or itself. Raises UnknownNameError."""
    if isinstance(convention, Convention):
        return convention
    known = CONVENTIONS | CROSS_CHECKS
    if convention not in known:
        raise UnknownNameError("counting convention", convention, known)
    return known[convention]


def get_conventions(conventions: Iterable[str | Convention]) -> dict[str, Convention]:
    """Conventions by name, the columns of a report. Raises UnknownNameError, and InputError without any or where two
    have one name."""
    found = [get_convention(convention) for convention in conventions]
    names = [convention.name for convention in found]
    if not found or len(set(names)) < len(names):
        named = ", ".join(names) or "none"
        raise InputError(
            f"a report needs conventions with different names, not {named}: pass names or Convention objects"
        )
    return dict(zip(names, found, strict=True))
