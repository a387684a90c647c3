"""What the commands print: steps with their times on stderr, tables and JSON on stdout."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, Self

from binmat.json_text import json_text
from binmat.printable import printable
from binmat.progress import Progress


class Steps:
    """Says on stderr which step of a job runs and, when it ends, how long it took.

    A context around the job. Call it with (step, done, of how many): a step ends where the next one begins.
    """

    def __init__(self) -> None:
        self._together = 0.0
        self._running: tuple[str, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self._end()
        elif self._running is not None:
            print(file=sys.stderr, flush=True)  # The error's message begins a line of its own.

    def __call__(self, title: str, done: int = 0, count: int = 0) -> None:
        if self._running is None or self._running[0] != title:
            self._end()
            print(f"  {printable(title):<44}", end="", file=sys.stderr, flush=True)
            self._running = (title, time.perf_counter())
        elif sys.stderr.isatty():
            far = f"{title} {done} of {count or 'unknown'}"
            print(f"\r  {printable(far):<44}", end="", file=sys.stderr, flush=True)

    def step(self, title: str) -> Progress:
        """Begin a step. Returns the function that shows its progress."""
        self(title)
        return partial(self, title)

    def _end(self) -> None:
        if self._running is not None:
            seconds = time.perf_counter() - self._running[1]
            print(f"{seconds:6.1f} s", file=sys.stderr, flush=True)
            self._together += seconds
            self._running = None

    def print_together(self) -> None:
        """The time of all steps together."""
        print(f"  {'together':<44}{self._together:6.1f} s", file=sys.stderr, flush=True)


def say(text: str, indent: str = "") -> None:
    """Print lines of text, wrapped to the terminal. indent: what every continuation of a line begins with."""
    width = min(max(shutil.get_terminal_size().columns, 20), 100)
    for line in printable(text).splitlines():
        print(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False))


def print_json(content: Any) -> None:
    print(json_text(content))


def print_error(message: str) -> None:
    """An error as one line on stderr."""
    print(f"binmat: error: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)


def error_object(error: Exception, message: str) -> dict[str, dict[str, str]]:
    """What ``--json`` prints of an error."""
    return {"error": {"type": type(error).__name__, "message": " ".join(message.split())}}


def print_table(
    heads: Iterable[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    align: Literal["left", "right"] = "right",
) -> None:
    """A table that fits the terminal if it can: no word of it, and so no number, is ever broken or left out.

    align: of every column but the first, which is on the left.
    """
    from rich.console import Console
    from rich.table import Table

    cells = [[printable(cell) for cell in row] for row in (list(heads), *rows)]
    table = Table(title=title, title_justify="left")
    needed = 1
    for number, column in enumerate(zip(*cells, strict=True)):
        # The first column is not wrapped at all.
        parts = (part for cell in column for part in (cell.split() if number else cell.split("\n")))
        widest = max(map(len, parts), default=0)
        table.add_column(column[0], justify=align if number else "left", min_width=widest, no_wrap=number == 0)
        needed += widest + 3
    for row in cells[1:]:
        table.add_row(*row)
    width = max(shutil.get_terminal_size().columns, needed)
    Console(markup=False, highlight=False, width=width).print(table)
