"""How a long job reports its progress."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (done, of how many); of how many is 0 where that is not known.
Progress = Callable[[int, int], None]

#: Called with (step, done, of how many) by a job of several steps, and with (step, 0, 0) when a step begins.
StepProgress = Callable[[str, int, int], None]


def silent(*_: object) -> None:
    """Show nothing: the default of either callback."""
