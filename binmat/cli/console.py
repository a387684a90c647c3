"""What the commands print: steps with their times on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, Self

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
            print(f"  {title:<44}", end="", file=sys.stderr, flush=True)
            self._running = (title, time.perf_counter())
        elif sys.stderr.isatty():
            far = f"{title} {done} of {count or 'unknown'}"
            print(f"\r  {far:<44}", end="", file=sys.stderr, flush=True)

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
    width = min(shutil.get_terminal_size().columns, 100)
    for line in text.splitlines():
        print(textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False))


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


def print_table(
    heads: Iterable[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    align: Literal["left", "right"] = "right",
) -> None:
    """A table that fits the terminal. align: of every column but the first, which is on the left."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify=align if number else "left", overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
