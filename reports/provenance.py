"""The page of provenance: what the papers print beside what binmat counts, from ``paper_figures.toml``.

    python -m binmat.reports.provenance docs/provenance.md
"""

from __future__ import annotations

import sys
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from binmat.model_defs.network import Network
from binmat.model_defs.registry import build
from binmat.transforms.convert import convert

from .convention import FREE
from .model_report import Report, report
from .report_content import Side

FIGURES = Path(__file__).with_name("paper_figures.toml")

_HEAD = """\
# Where the papers' numbers come from

`make provenance` writes this page: it counts every network and puts the result beside the number that is printed. The
printed numbers are in `reports/paper_figures.toml`: those of the papers' tables and figures, and those of their texts
that a table below names "Text". A test fails where the page is not what binmat counts.

A number that is equal in the digits that are printed stands alone. Otherwise the line says how far it is from the
printed one, and below the table why. The last column is the number of the command, in the list at the end. In Python
the commands start with

```python
from binmat.model_defs.registry import build
from binmat.reports import report
from binmat.transforms.convert import convert
```

No number here depends on weights. With a checkpoint, `binmat report FILE --size HxW` prints the same, and for a
converted network `binmat convert FILE --scheme NAME --size HxW -o out` and then `binmat report out`.
"""


@dataclass(frozen=True)
class Setup:
    """A network and the call that is counted.

    config: constructor arguments. scheme, recipe, settings: as for :func:`binmat.convert`; without any of them the
    network stays float.
    """

    network: str
    size: tuple[int, int]
    downsample_ratio: float | None = None
    config: tuple[tuple[str, Any], ...] = ()
    scheme: str | None = None
    recipe: str | None = None
    settings: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What :meth:`report` does, in Python.

        >>> Setup("pam", (64, 64), config=(("path", "1011"),), scheme="bnn").command
        'report(convert(build("pam", path="1011"), "bnn"), size=(64, 64))'
        """
        text = f"build({', '.join([_quoted(self.network), *(f'{k}={_quoted(v)}' for k, v in self.config)])})"
        if self.scheme or self.recipe:
            how = [_quoted(self.scheme)] if self.scheme else [f"recipe={_quoted(self.recipe)}"]
            if self.settings:
                how.append(f"settings=[{', '.join(map(_quoted, self.settings))}]")
            text = f"convert({', '.join([text, *how])})"
        ratio = "" if self.downsample_ratio is None else f", downsample_ratio={self.downsample_ratio}"
        return f"report({text}, size={self.size}{ratio})"

    def report(self) -> Report:
        network = _network(self.network, self.config, self.scheme, self.recipe, self.settings)
        return report(network, size=self.size, downsample_ratio=self.downsample_ratio)


@dataclass(frozen=True)
class Printed:
    """One number of a paper.

    paper, table, row, column: where it stands. value: as it is printed. figure: what it is compared with, see
    ``paper_figures.toml``. why: what is to be said where they differ. other: another printed number, for the figures
    that set the counted one against it.
    """

    paper: str
    table: str
    row: str
    column: str
    value: str
    figure: str
    setup: Setup
    why: str | None
    other: float | None = None

    def counted(self) -> float:
        """The figure, in the unit of the printed number."""
        return _figure(_report(self.setup), self.figure, self.other)

    def agrees(self) -> bool:
        """Whether they are equal in the digits that are printed."""
        _, _, decimals = self.value.partition(".")
        return f"{self.counted():.{len(decimals)}f}" == self.value

    def reason(self) -> str:
        """Why they differ, with the setup's parameters put in; empty where nothing is said."""
        parameters = round(_figure(_report(self.setup), "parameters") * 1e6)
        return (self.why or "").format(parameters=parameters, parameter_mib=parameters * 4 / 2**20)


def printed_numbers(path: Path = FIGURES) -> list[Printed]:
    """Every number of the file, in its order."""
    content = _content(path)
    return [
        Printed(
            paper["name"],
            table["name"],
            row["name"],
            column,
            value,
            table["figures"][column],
            _setup(table, row),
            content["why"][row["why"][column]] if column in row.get("why", {}) else None,
            float(row["others"][column]) if column in row.get("others", {}) else None,
        )
        for paper in content["paper"]
        for table in paper.get("table", ())
        for row in table["row"]
        for column, value in row["printed"].items()
    ]


def page(path: Path = FIGURES) -> str:
    """The page as Markdown. It takes a minute: every network is built, converted and counted."""
    numbers = printed_numbers(path)
    setups = list(dict.fromkeys(number.setup for number in numbers))
    parts = [_HEAD]
    for paper in _content(path)["paper"]:
        parts += [f"## {paper['name']}\n", _filled(f"{paper['title']}. {paper['intro']}")]
        for table in paper.get("table", ()):
            here = [n for n in numbers if (n.paper, n.table) == (paper["name"], table["name"])]
            parts += [f"### {table['name']}\n", *_table(here, setups)]
            if "absent" in table:
                others = f"Also printed, of networks that binmat does not have: {'; '.join(table['absent'])}."
                parts.append(_filled(others))
    parts += ["## Commands\n", "".join(f"{n}. `{setup.command}`\n" for n, setup in enumerate(setups, 1))]
    return "\n".join(parts)


def _table(numbers: Sequence[Printed], setups: Sequence[Setup]) -> Iterator[str]:
    """A table with a line per row of the paper's, and the reasons below it."""
    columns = {number.column: _FIGURE_NAMES[number.figure] for number in numbers}
    heads = ["row", *(head for column, name in columns.items() for head in (column, name)), "command"]
    lines = [heads, ["---"] * len(heads)]
    reasons: dict[str, list[str]] = {}
    for row in dict.fromkeys(number.row for number in numbers):
        here = {number.column: number for number in numbers if number.row == row}
        cells = [cell for column in columns for cell in _cells(here.get(column))]
        lines.append([row, *cells, str(setups.index(next(iter(here.values())).setup) + 1)])
        for number in here.values():
            if not number.agrees():
                reasons.setdefault(number.reason(), []).append(f"{row}, {number.column}")
    yield "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if reasons:
        yield "".join(_filled(f"- {'; '.join(places)}: {reason}") for reason, places in reasons.items())


def _cells(number: Printed | None) -> tuple[str, str]:
    if number is None:
        return "", ""
    counted = number.counted()
    difference = "" if number.agrees() else f" ({counted / float(number.value) - 1:+.2%})"
    return number.value, f"{counted:.4f}{difference}"


def _filled(text: str) -> str:
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False) + "\n"


#: What a figure is called in a report.
_FIGURE_NAMES = {
    "ops bimatting": "`bimatting`, G",
    "ops textbook": "`textbook`, G",
    "ops fvcore": "`fvcore`, G",
    "ops fvcore of": "`fvcore`, % of the other",
    "ops fvcore under": "`fvcore`, % under the other",
    "ops textbook of": "`textbook`, % of the other",
    "ops bimatting under": "`bimatting`, % under the other",
    "ops bimatting decoder": "`bimatting`, `decoder`, G",
    "ops bimatting decoder.decode0 per backbone": "`bimatting`, `decoder.decode0` / `backbone`, %",
    "share decoder": "share of `decoder`, %",
    "share backbone": "share of `backbone`, %",
    "storage share decoder": "storage share of `decoder`, %",
    "storage share backbone": "storage share of `backbone`, %",
    "less ops": "times less in `bimatting`",
    "less storage": "times less storage",
    "parameters": "parameters, M",
    "parameters of": "parameters, % of the other",
    "parameters under": "parameters, % under the other",
    "storage": "storage, MiB",
    "storage beyond": "storage, MiB beyond the other",
}


def _figure(found: Report, figure: str, other: float | None = None) -> float:
    side = found.after or found.before
    assert side is not None
    match figure.split():
        case [*own, "of" | "under" | "beyond" as relation]:
            assert other is not None
            value = _figure(found, " ".join(own))
            return {"of": 100 * value / other, "under": 100 * (1 - value / other), "beyond": value - other}[relation]
        case ["ops", "fvcore"]:
            return found.cross_checks["fvcore"] / 1e9
        case ["ops", convention]:
            return _ops(found, side, convention) / 1e9
        case ["ops", convention, part]:
            return _part(found, side, convention, part) / 1e9
        case ["ops", convention, part, "per", base]:
            return 100 * _part(found, side, convention, part) / _part(found, side, convention, base)
        case ["share", part]:
            return 100 * _part(found, side, "bimatting", part) / side.counts["bimatting"].total.ops
        case ["less", "ops"]:
            assert found.before is not None
            return found.before.counts["bimatting"].total.ops / _ops(found, side, "bimatting")
        case ["less", "storage"]:
            assert found.before is not None
            return found.before.bytes / side.bytes
        case ["parameters"]:
            return sum(side.bits.values()) / 32 / 1e6
        case ["storage", "share", part]:
            return 100 * found.blocks.sums(side.bits, 0)[part] / sum(side.bits.values())
        case ["storage"]:
            return side.bytes / 2**20
    raise ValueError(f"{FIGURES.name} has no figure '{figure}'")


def _ops(found: Report, side: Side, convention: str) -> float:
    return side.counts[convention].total.ops if found.sparse is None else found.sparse.credited(convention)


def _part(found: Report, side: Side, convention: str, part: str) -> float:
    return found.blocks.sums(side.counts[convention].costs, FREE)[part].ops


def _content(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text("utf-8"))


def _setup(table: Mapping[str, Any], row: Mapping[str, Any]) -> Setup:
    height, width = table["size"]
    return Setup(
        row["network"],
        (height, width),
        table.get("downsample_ratio"),
        tuple(row.get("config", {}).items()),
        row.get("scheme"),
        row.get("recipe"),
        tuple(row.get("settings", ())),
    )


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


@cache
def _network(
    name: str,
    config: tuple[tuple[str, Any], ...],
    scheme: str | None,
    recipe: str | None,
    settings: tuple[str, ...],
) -> Network:
    network = build(name, **dict(config))
    return convert(network, scheme, recipe=recipe, settings=settings) if scheme or recipe else network


@cache
def _report(setup: Setup) -> Report:
    return setup.report()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
