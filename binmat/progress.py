"""How a long job says how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Called with (done, of how many); of how many is 0 where that is not known.
Progress = Callable[[int, int], None]

#: Called with (step, done, of how many) by a job of several steps; first with (step, 0, 0).
StepProgress = Callable[[str, int, int], None]


def silent(done: int, count: int) -> None:
    """Show nothing: the progress where none is asked for."""


def silent_step(step: str, done: int, count: int) -> None:
    """Show nothing of any step."""
