"""A report as text: terminal, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from binmat.model_defs.network import Network
from binmat.nn import BinaryLayer

from .convention import FREE
from .conventions import CROSS_CHECKS
from .report_content import ReportContent, Side
from .sparse import Sparse
from .tables import Table, Unit, bar_chart, bytes_unit, operations_unit, times, wrapped


def terminal(report: ReportContent, *, layers: bool) -> str:
    tables = [_summary(report), _blocks(report), *_others(report), *([_layers(report)] if layers else [])]
    parts = [_headline(report), *(wrapped(f"Warning: {warning}") for warning in report.warnings)]
    for table in tables:
        parts.append(f"{table.title}\n\n{table.render('simple')}" if table.title else table.render("simple"))
        if table is tables[1]:
            parts.append(_chart(report))
    return "\n\n".join([*parts, *map(wrapped, _remarks(report))])


def markdown(report: ReportContent) -> str:
    parts = [f"# {report.network}: operations and storage", _headline(report) + "."]
    parts += [f"**Warning**: {warning}" for warning in report.warnings]
    parts += [_summary(report).render("github"), *_remarks(report)]
    blocks = _blocks(report)
    parts += [f"## {blocks.title}", blocks.render("github"), f"```text\n{_chart(report)}\n```"]
    for table in (*_others(report), _layers(report)):
        parts += [f"## {table.title}", table.render("github")]
    return "\n\n".join(parts) + "\n"


def over_threshold(scheme: str, after: Side, baseline: Side) -> str:
    """What a scheme with RPReLU or thresholds per channel costs beyond scheme ``threshold``."""
    counted = after.counts["bimatting"].total.ops, baseline.counts["bimatting"].total.ops
    ops, stored = operations_unit(max(counted)), bytes_unit(after.bytes)
    return (
        f"Scheme {scheme} has thresholds per channel or RPReLU. Scheme threshold, which the BiMatting paper prints as "
        f"ReActNet, takes {ops.show(counted[1])} {ops.name} in convention bimatting and {stored.show(baseline.bytes)} "
        f"{stored.name}: {scheme} takes {ops.show(counted[0] - counted[1])} {ops.name} and "
        f"{stored.show(after.bytes - baseline.bytes)} {stored.name} more."
    )


def not_counted(convention: str, calls: Mapping[str, int]) -> list[str]:
    """The remark on the operators that a convention leaves out, with how often each was called; none without any."""
    named = ", ".join(f"{operator} ({n} call{'s' * (n > 1)})" for operator, n in sorted(calls.items()))
    return [f"Met but not counted by {convention}: {named}."] if named else []


def blind_layers(names: Collection[str], network: Network) -> tuple[str, ...]:
    """The warning that some binary layers see constant signs, with causes and ways out; empty where there are none."""
    if not names:
        return ()
    layers = {name: module for name, module in network.named_modules() if isinstance(module, BinaryLayer)}
    found = [name for name in layers if name in names]
    named = ", ".join(found[:2]) + (", ..." if len(found) > 2 else "")
    fixed = {layers[name].scheme.name: layers[name] for name in found if layers[name].threshold is None}
    learnt = sum(layers[name].threshold is not None for name in found)
    parts = [
        f"In {len(found)} of {len(layers)} binary layers ({named}) the signs of the input are equal everywhere. "
        "They see nothing of the picture; report.json names them."
    ]
    for scheme, layer in fixed.items():
        midpoint = layer.scheme.activation.midpoint
        relu = "a ReLU or the like stands before them (--set options.replacement=hardtanh puts a hard tanh there)"
        cause = f"the input stays on one side of {midpoint:g}" if midpoint else relu
        parts.append(f"Scheme {scheme} learns no threshold but compares with {midpoint:g}, and {cause}.")
    if fixed:
        parts.append(
            "--set options.threshold=layer gives them a threshold, which binmat convert calibrates; schemes threshold, "
            "reactnet and bimatting have thresholds of their own."
        )
    if learnt:
        parts.append(
            f"The thresholds of {learnt} have seen no data: binmat.calibrate(network, frames) sets them, as binmat "
            "convert does without --no-calibration; training moves them too."
        )
    return (" ".join(parts),)


def _headline(report: ReportContent) -> str:
    made = f"recipe {report.recipe}" if report.recipe else "float" if report.after is None else "converted"
    ratio = "" if report.downsample_ratio == 1 else f", downsample ratio {report.downsample_ratio:g}"
    return f"{report.network}, {made}: one frame of {report.height}x{report.width}{ratio} (mode {report.mode})"


def _sides(report: ReportContent) -> dict[str, Side]:
    sides = {"float": report.before, "converted": report.after}
    return {name: side for name, side in sides.items() if side is not None}


def _units(report: ReportContent) -> tuple[Unit, Unit]:
    sides = _sides(report).values()
    largest = max(count.total.ops for side in sides for count in side.counts.values())
    return operations_unit(largest), bytes_unit(max(side.bytes for side in sides))


def _summary(report: ReportContent) -> Table:
    ops, stored = _units(report)
    rows = [
        [name, *(ops.show(side.counts[c].total.ops) for c in report.conventions), stored.show(side.bytes)]
        for name, side in _sides(report).items()
    ]
    if report.after is not None:
        totals = [report.after.counts[c].total for c in report.conventions]
        rows.append(["  of which on floats", *(ops.show(total.flops) for total in totals), ""])
        rows.append(["  of which on bits, / 64", *(ops.show(total.bops / 64) for total in totals), ""])
    if report.sparse is not None:
        rows += _credits(report.sparse, ops)
    if report.before is not None and report.after is not None:
        ratios = (times(report.ratio(c)) for c in report.conventions)
        rows.append(["float / converted", *ratios, times(report.storage_ratio)])
    heads = ["", *(f"{c}\n{ops.name}" for c in report.conventions), f"storage\n{stored.name}"]
    return Table("", heads, rows, "l" + "r" * (len(heads) - 1))


def _credits(sparse: Sparse, ops: Unit) -> list[list[str]]:
    """The rows with credited totals. The rows above them count every pixel."""
    rows = [[f"credited at density {sparse.density:g}", *(ops.show(sparse.credited(c)) for c in sparse.counts), ""]]
    if sparse.measured is not None:
        counted = (sparse.on_clip(c) for c in sparse.counts)
        frames = f"{sparse.measured.frames} frame{'s' * (sparse.measured.frames > 1)}"
        rows.append([f"credited on the clip, {frames}", *(ops.show(n or 0.0) for n in counted), ""])
    return rows


def _masked_paths(sparse: Sparse) -> Table:
    unit = operations_unit(max(sparse.of_path(c, path) for c in sparse.counts for path in sparse.paths))
    measured = sparse.measured.paths if sparse.measured is not None else None
    columns = [
        ("dense", dict.fromkeys(sparse.paths, 1.0)),
        (f"at {sparse.density:g}", dict.fromkeys(sparse.paths, sparse.density)),
    ]
    if measured is not None:
        columns.append(("clip", dict(measured)))
    rows = [
        [
            path,
            *([] if measured is None else [f"{measured[path]:.3f}"]),
            *(unit.show(sparse.of_path(c, path) * share[path]) for c in sparse.counts for _, share in columns),
        ]
        for path in sparse.paths
    ]
    heads = ["masked path", *([] if measured is None else ["density\non clip"])]
    heads += [f"{c}\n{name}\n{unit.name}" for c in sparse.counts for name, _ in columns]
    return Table("Sparse-assisted decoder", heads, rows, "l" + "r" * (len(heads) - 1))


def _blocks(report: ReportContent) -> Table:
    ops, _ = _units(report)
    sides = _sides(report)
    stored = bytes_unit(max(sum(side.bits.values()) / 8 for side in sides.values()))
    columns: list[tuple[str, dict[str, str]]] = []
    used: set[str] = set()
    for convention in report.conventions:
        for name, side in sides.items():
            sums = report.blocks.sums(side.counts[convention].costs, FREE)
            used |= {block for block, cost in sums.items() if cost != FREE}
            head = f"{convention}\n{name}\n{ops.name}"
            columns.append((head, {block: ops.show(cost.ops) for block, cost in sums.items()}))
    for name, side in sides.items():
        bits = report.blocks.sums(side.bits, 0)
        used |= {block for block, amount in bits.items() if amount}
        columns.append((f"storage\n{name}\n{stored.name}", {b: stored.show(n / 8) for b, n in bits.items()}))
    rows = [
        [_indented(block, report), *(column.get(block, stored.show(0)) for _, column in columns)]
        for block in report.blocks.order()
        if block in used
    ]
    return Table("By block", ["", *(head for head, _ in columns)], rows, "l" + "r" * len(columns))


def _indented(block: str, report: ReportContent) -> str:
    part, dot, inside = block.partition(".")
    return f"  {inside}" if dot and part in report.blocks.parts else block


def _chart(report: ReportContent) -> str:
    """Bars of operations and bytes by block: in a matting network they are in different places."""
    side = report.after or report.before
    assert side is not None
    convention = "bimatting" if "bimatting" in report.conventions else next(iter(report.conventions))
    costs = report.blocks.sums(side.counts[convention].costs, FREE)
    bits = report.blocks.sums(side.bits, 0)
    total_ops, total_bits = side.counts[convention].total.ops or 1, sum(side.bits.values()) or 1
    shares = {
        _indented(block, report): (costs.get(block, FREE).ops / total_ops, bits.get(block, 0) / total_bits)
        for block in report.blocks.order()
        if costs.get(block, FREE) != FREE or bits.get(block)
    }
    which = "converted" if report.after is not None else "float"
    return bar_chart((f"operations ({convention}, {which})", f"storage ({which})"), shares)


def _others(report: ReportContent) -> list[Table]:
    tables = []
    if report.sparse is not None:
        tables.append(_masked_paths(report.sparse))
    if report.files:
        rows = [[name, f"{size:,}"] for name, size in report.files.items()]
        if report.after is not None:
            rows.append(["converted network by formula", f"{report.after.bytes:,}"])
        tables.append(Table("Files", ["file", "bytes"], rows, "lr"))
    if report.verification:
        heads = list(dict.fromkeys(key for result in report.verification.values() for key in result))
        rows = [[name, *(_number(result.get(key)) for key in heads)] for name, result in report.verification.items()]
        tables.append(Table("Verification against PyTorch", ["backend", *heads], rows, "l" + "r" * len(heads)))
    return tables


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)


def _layers(report: ReportContent) -> Table:
    """Every layer with its operations. The last row sums up everything that is no layer."""
    side = report.after or report.before
    assert side is not None
    largest = max(side.counts[c].total.ops for c in report.conventions)
    unit = operations_unit(largest / 100)
    credited = _densities(report)
    rows = []
    for layer in report.layers:
        costs = [side.counts[c].costs.get(layer.name, FREE).ops for c in report.conventions]
        shares = [densities.get(layer.path or "", 1.0) for densities in credited.values()]
        rows.append(
            [
                layer.name,
                layer.kind,
                layer.scheme or layer.precision,
                f"{layer.macs:,}",
                *map(unit.show, costs),
                *(unit.show(cost * share) for share in shares for cost in costs),
                f"{layer.bytes:,}",
                layer.reason,
            ]
        )
    listed = {layer.name for layer in report.layers}
    others = {name for c in report.conventions for name in side.counts[c].costs if name not in listed}
    rest = [
        sum(
            cost.ops * densities.get(side.counts[c].masked.get(name, ""), 1.0)
            for name, cost in side.counts[c].costs.items()
            if name in others
        )
        for densities in ({}, *credited.values())
        for c in report.conventions
    ]
    own_bytes = (sum(side.bits.values()) / 8) - sum(layer.bytes for layer in report.layers)
    rows.append(["all else", "", "", "0", *map(unit.show, rest), f"{own_bytes:,.0f}", "norms, activations, upsampling"])
    heads = ["layer", "kind", "precision", "MACs", *(f"{c}\n{unit.name}" for c in report.conventions)]
    heads += [f"{c}\n{name}\n{unit.name}" for name in credited for c in report.conventions] + ["bytes", "reason"]
    return Table("By layer", heads, rows, "lll" + "r" * (len(heads) - 4) + "l")


def _densities(report: ReportContent) -> dict[str, dict[str, float]]:
    """The shares of active pixels by masked path, under the head of each credited column; empty without a mask."""
    if report.sparse is None:
        return {}
    found = {f"at {report.sparse.density:g}": dict.fromkeys(report.sparse.paths, report.sparse.density)}
    if report.sparse.measured is not None:
        found["clip"] = dict(report.sparse.measured.paths)
    return found


def _remarks(report: ReportContent) -> list[str]:
    remarks = [f"{convention.name}: {convention.definition}" for convention in report.conventions.values()]
    for name, flops in report.cross_checks.items():
        unit = operations_unit(flops)
        remarks.append(
            f"Cross-check {name}: the float network has {unit.show(flops)} {unit.name}. {CROSS_CHECKS[name].definition}"
        )
    sides = []
    if report.before is not None:
        sides.append("of the float network the size of its saved state_dict")
    if report.after is not None:
        sides.append(
            "of the converted network one bit per binary weight and 4 bytes per float, scale and threshold per channel"
        )
    remarks.append(f"storage: {', '.join(sides)}; by block, 4 bytes per float.")
    if report.sparse is not None:
        remarks.append(
            "sparse: the converted network's figures are dense, as it runs where nothing skips. Credited figures "
            "multiply the work of each masked path by the share of its pixels where the mask is not 0; 0.351 is the "
            "density behind the BiMatting paper's numbers."
        )
    remarks += report.notes
    for name in report.conventions:
        missing = {op: n for side in _sides(report).values() for op, n in side.counts[name].not_counted.items()}
        remarks += not_counted(name, missing)
    return remarks
