"""What convert says at its end: what was made, what it costs, whether it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binmat.cli.console import print_table, say

if TYPE_CHECKING:
    from binmat.pipeline.convert_checkpoint import ConvertedCheckpoint
    from binmat.reports import Report


def print_conversion(converted: ConvertedCheckpoint) -> None:
    """The summary of one conversion, on stdout."""
    report = converted.report
    binary = sum(layer.precision == "binary" for layer in report.layers)
    ratio = "" if report.downsample_ratio == 1 else f", downsample ratio {report.downsample_ratio:g}"
    print(
        f"{report.network}, recipe {report.recipe}: {binary} of {len(report.layers)} layers are 1-bit. "
        f"One frame of {report.height}x{report.width}{ratio}:"
    )
    print_costs(report)
    for warning in report.warnings:
        say(f"Warning: {warning}")
    for verification in converted.verifications.values():
        say(str(verification))
    print()
    for path in converted.files:
        print(f"  {path!s:<40} {path.stat().st_size:>12,} bytes")


def print_costs(report: Report) -> None:
    """Operations in both conventions and storage, float beside converted."""
    from binmat.reports import CONVENTIONS
    from binmat.reports.tables import bytes_unit, operations_unit, times

    sides = {"float": report.before, "converted": report.after}
    known = {name: side for name, side in sides.items() if side is not None}
    ops = operations_unit(max(count.total.ops for side in known.values() for count in side.counts.values()))
    stored = bytes_unit(max(side.bytes for side in known.values()))
    rows = [
        [name, *(ops.show(side.counts[c].total.ops) for c in CONVENTIONS), stored.show(side.bytes)]
        for name, side in known.items()
    ]
    rows.append(["times less", *(times(report.ratio(c)) for c in CONVENTIONS), times(report.storage_ratio)])
    heads = {"": "left", **{f"{c}, {ops.name} operations": "right" for c in CONVENTIONS}}
    print_table({**heads, f"storage, {stored.name}": "right"}, rows)
