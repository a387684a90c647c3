"""Several reports beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binmat.errors import InputError
from binmat.json_text import json_text

from .convention import Convention
from .model_report import Report
from .report_content import SCHEMA
from .save import save_as
from .sparse import Sparse
from .tables import Table, Unit, bytes_unit, operations_unit, times, wrapped


@dataclass(frozen=True)
class Comparison:
    """Reports side by side, one row each; made by :func:`compare`."""

    reports: tuple[Report, ...]

    def table(self) -> Table:
        sides = [report.after or report.before for report in self.reports]
        ops = operations_unit(max(count.total.ops for side in sides if side for count in side.counts.values()))
        stored = bytes_unit(max(side.bytes for side in sides if side))
        rows = []
        for report, side in zip(self.reports, sides, strict=True):
            assert side is not None
            ratio = "" if report.downsample_ratio == 1 else f" at {report.downsample_ratio:g}"
            row = [report.network, report.recipe or "float", f"{report.height}x{report.width}{ratio}"]
            for convention in self.conventions:
                row += [ops.show(side.counts[convention].total.ops), times(report.ratio(convention))]
            rows.append([*row, stored.show(side.bytes), times(report.storage_ratio)])
            if report.sparse is not None:
                rows += _credits(report.sparse, ops)
        counted = [head for c in self.conventions for head in (f"{c}\n{ops.name}", "less")]
        heads = ["network", "recipe", "input", *counted, f"storage\n{stored.name}", "less"]
        return Table("", heads, rows, "lll" + "r" * (len(heads) - 3))

    def to_json(self) -> dict[str, Any]:
        """{schema, reports: the reports' own JSON}."""
        return {"schema": SCHEMA, "reports": [report.to_json() for report in self.reports]}

    def to_markdown(self) -> str:
        return "\n\n".join(["# Comparison", self.table().render("github"), *self._definitions()]) + "\n"

    def __str__(self) -> str:
        return "\n\n".join([self.table().render("simple"), *map(wrapped, self._definitions())])

    def save(self, path: str | Path) -> None:
        """Write the comparison whole or not at all, as .json or .md. Raises UnknownNameError, InputError."""
        save_as(path, {".json": lambda: json_text(self.to_json()) + "\n", ".md": self.to_markdown})

    @property
    def conventions(self) -> dict[str, Convention]:
        """The conventions of every report, by name."""
        return self.reports[0].conventions

    def _definitions(self) -> list[str]:
        less = "less: how many times less than the float network of the same row."
        return [less, *(f"{c.name}: {c.definition}" for c in self.conventions.values())]


def compare(*reports: Report) -> Comparison:
    """Put reports side by side. Raises InputError without any, and where they are in different conventions."""
    if not reports:
        raise InputError("a comparison needs at least one report: pass what binmat.report returns")
    if any(list(report.conventions) != list(reports[0].conventions) for report in reports):
        raise InputError("reports in different conventions do not compare: make all with the same conventions=[...]")
    return Comparison(reports)


def _credits(sparse: Sparse, ops: Unit) -> list[list[str]]:
    """The rows with credited operations, below the row with the dense ones."""
    figures = {f"density {sparse.density:g}": [sparse.credited(name) for name in sparse.counts]}
    if sparse.measured is not None:
        figures["density on the clip"] = [sparse.on_clip(name) or 0.0 for name in sparse.counts]
    return [
        ["", f"  at {name}", "", *(cell for value in values for cell in (ops.show(value), "")), "", ""]
        for name, values in figures.items()
    ]
