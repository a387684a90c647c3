"""How a long job says how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (done, of how many); of how many is 0 where that is not known.
Progress = Callable[[int, int], None]


def silent(done: int, count: int) -> None:
    """Show nothing: the progress where none is asked for."""
