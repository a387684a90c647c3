"""The check of a field that takes one of a few names."""

from __future__ import annotations

from collections.abc import Iterable

from binmat.errors import LONGEST_NAME, RecipeError, suggestion


def check_choice(what: str, value: object, known: Iterable[str]) -> None:
    """Raise RecipeError, which suggests the nearest choice, unless ``value`` is one of ``known``."""
    known = list(known)
    if value not in known:
        shown = repr(value)[:LONGEST_NAME]
        hint = suggestion(shown.strip("'").lower(), known)
        raise RecipeError(f"{what} cannot be {shown}: {hint}choose one of {', '.join(known)}")
