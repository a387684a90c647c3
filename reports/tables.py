"""Tables of a report, for the terminal and for Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

from binmat.printable import printable

_BAR_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class Table:
    """Rows of text under column heads. A head may have several lines; Markdown joins them.

    align: one letter per column, l or r.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str

    def render(self, form: Literal["simple", "github"]) -> str:
        """The table without its title."""
        heads, rows = self.heads, [[printable(cell) for cell in row] for row in self.rows]
        if form == "github":
            heads = [head.replace("\n", ", ") for head in heads]
            rows = [[_markdown_cell(cell) for cell in row] for row in rows]
        align = ["right" if letter == "r" else "left" for letter in self.align]
        return tabulate(rows, heads, tablefmt=form, colalign=align, disable_numparse=True, preserve_whitespace=True)


def _markdown_cell(cell: str) -> str:
    text = cell.lstrip(" ")
    return "&nbsp;" * 2 * (len(cell) - len(text)) + text.replace("|", "\\|")


@dataclass(frozen=True)
class Unit:
    """A unit that makes numbers of some size readable."""

    name: str
    size: float

    def show(self, amount: float | None) -> str:
        if amount is None:
            return "-"
        value = amount / self.size
        return f"{value:.4f}" if self.size > 1 else f"{value:g}"


def operations_unit(largest: float) -> Unit:
    """The unit for amounts up to this one: G from 0.1 G on, M from 0.1 M on, else single operations."""
    return next((Unit(name, size) for name, size in (("G", 1e9), ("M", 1e6)) if largest >= size / 10), Unit("ops", 1))


def bytes_unit(largest: float) -> Unit:
    """The unit for amounts up to this one: MiB from 0.1 MiB on, KiB from 0.1 KiB on, else bytes."""
    units = (("MiB", 2.0**20), ("KiB", 2.0**10))
    return next((Unit(name, size) for name, size in units if largest >= size / 10), Unit("bytes", 1))


def times(ratio: float | None) -> str:
    """A ratio as text, such as 10.5x."""
    return "-" if ratio is None else f"{ratio:.1f}x"


def wrapped(sentence: str) -> str:
    """A sentence, wrapped to the width of a terminal."""
    return textwrap.fill(sentence, 100, break_on_hyphens=False)


def bar(share: float, width: int) -> str:
    """A share in [0, 1] as a bar of at most width characters, exact to an eighth of one; padded to the width."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BAR_EIGHTHS[rest] if rest else "")).ljust(width)


def bar_chart(heads: Sequence[str], shares: Mapping[str, Sequence[float]], width: int = 24) -> str:
    """One row of bars per name, one column of bars per head; shares lie in [0, 1]."""
    label = max((len(name) for name in shares), default=0)
    column = width + 7
    lines = [" " * label + "  " + "  ".join(head.ljust(column) for head in heads)]
    for name, values in shares.items():
        lines.append(f"{name:<{label}}  " + "  ".join(f"{bar(v, width)} {v:6.1%}" for v in values))
    return "\n".join(line.rstrip() for line in lines)
