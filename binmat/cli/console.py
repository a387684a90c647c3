"""What commands print: steps with their times on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from binmat.progress import Progress


class Steps:
    """Says on stderr what is being done and, once it is done, how long it took."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[Progress]:
        """One step: its title when it starts, its time when it ends. Gives what shows how far it is."""

        def show(done: int, count: int) -> None:
            if sys.stderr.isatty():
                of = count or "unknown"
                print(f"\r  {f'{title} {done} of {of}':<44}", end="", file=sys.stderr, flush=True)

        print(f"  {title:<44}", end="", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            yield show
        except BaseException:
            print(file=sys.stderr, flush=True)
            raise
        self.times[title] = time.perf_counter() - start
        print(f"{self.times[title]:6.1f} s", file=sys.stderr, flush=True)

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
