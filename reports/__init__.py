"""What a network costs: operations in two named conventions, storage by formula and by file, as tables and JSON."""

from __future__ import annotations

from binmat.nn.operators import OPERATORS, Kind, Operator
from binmat.reports.call_recorder import Call
from binmat.reports.comparison import Comparison, compare
from binmat.reports.convention import Convention, Cost
from binmat.reports.conventions import CONVENTIONS, CROSS_CHECKS, get_convention
from binmat.reports.count import Count, count
from binmat.reports.layers import Layer
from binmat.reports.macs import macs_of
from binmat.reports.model_report import Report, report
from binmat.reports.report_content import Side
from binmat.reports.storage import saved_bytes, stored_bits

__all__ = [
    "CONVENTIONS",
    "CROSS_CHECKS",
    "OPERATORS",
    "Call",
    "Comparison",
    "Convention",
    "Cost",
    "Count",
    "Kind",
    "Layer",
    "Operator",
    "Report",
    "Side",
    "compare",
    "count",
    "get_convention",
    "macs_of",
    "report",
    "saved_bytes",
    "stored_bits",
]
