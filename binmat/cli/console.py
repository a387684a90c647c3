"""What commands print: steps with their times on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

from binmat.progress import Progress, StepProgress


class Steps:
    """Says on stderr which step of a job runs and, once it is done, how long it took."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}
        self._running: tuple[str, float] | None = None

    @contextmanager
    def follow(self) -> Iterator[StepProgress]:
        """A job that says its steps itself: what it has to be given for that. Each ends where the next one starts."""
        try:
            yield self._show
        except BaseException:
            if self._running is not None:
                print(file=sys.stderr, flush=True)
                self._running = None
            raise
        self._end()

    @contextmanager
    def step(self, title: str) -> Iterator[Progress]:
        """One step: its title when it starts, its time when it ends. Gives what shows how far it is."""
        with self.follow() as show:
            show(title, 0, 0)
            yield partial(show, title)

    def _show(self, title: str, done: int, count: int) -> None:
        """Where a job is; a title that is new ends the step before."""
        if self._running is None or self._running[0] != title:
            self._end()
            print(f"  {title:<44}", end="", file=sys.stderr, flush=True)
            self._running = (title, time.perf_counter())
        elif sys.stderr.isatty():
            far = f"{title} {done} of {count or 'unknown'}"
            print(f"\r  {far:<44}", end="", file=sys.stderr, flush=True)

    def _end(self) -> None:
        if self._running is not None:
            title, start = self._running
            self.times[title] = time.perf_counter() - start
            print(f"{self.times[title]:6.1f} s", file=sys.stderr, flush=True)
            self._running = None

    def finish(self) -> None:
        """The time of all steps together."""
        print(f"  {'together':<44}{sum(self.times.values()):6.1f} s", file=sys.stderr, flush=True)


def say(text: str, indent: str = "", error: bool = False) -> None:
    """Print lines of text, wrapped to the terminal; what does not fit goes on under the indent. error: on stderr."""
    width = min(shutil.get_terminal_size().columns, 100)
    for line in text.splitlines():
        wrapped = textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
        print(wrapped, file=sys.stderr if error else sys.stdout)


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


def print_table(heads: Mapping[str, str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table that fits the terminal. heads: column -> how it is aligned, left or right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, (head, align) in enumerate(heads.items()):
        justify: Literal["left", "right"] = "right" if align == "right" else "left"
        table.add_column(head, justify=justify, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
