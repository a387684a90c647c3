"""What commands print: steps with their times on stderr, tables and JSON on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class Steps:
    """Says on stderr what is being done and, once it is done, how long it took."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """One step: its title when it starts, its time when it ends."""
        print(f"  {title:<44}", end="", file=sys.stderr, flush=True)
        start = time.perf_counter()
        try:
            yield
        except BaseException:
            print(file=sys.stderr, flush=True)
            raise
        self.times[title] = time.perf_counter() - start
        print(f"{self.times[title]:6.1f} s", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """The time of all steps together."""
        print(f"  {'together':<44}{sum(self.times.values()):6.1f} s", file=sys.stderr, flush=True)


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


def print_table(heads: Mapping[str, str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table that fits the terminal. heads: column -> how it is aligned, left or right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for head, align in heads.items():
        table.add_column(head, justify="right" if align == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, highlight=False).print(table)
