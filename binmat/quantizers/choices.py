"""One check for every field that takes one of a few names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from binmat.errors import RecipeError


def check_choice(what: str, value: object, known: Iterable[str]) -> None:
    """Raise :class:`~binmat.errors.RecipeError`, naming the nearest choice, unless ``value`` is one of ``known``."""
    known = list(known)
    if value in known:
        return
    near = difflib.get_close_matches(str(value).lower(), known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise RecipeError(f"{what} cannot be {value!r}: {hint}choose one of {', '.join(known)}")
