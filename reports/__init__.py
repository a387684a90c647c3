"""What a network costs: operations in two named conventions, storage by formula and by file, as tables and JSON."""

from __future__ import annotations

from binmat.reports.comparison import Comparison, compare
from binmat.reports.convention import Convention, Cost
from binmat.reports.conventions import CONVENTIONS, CROSS_CHECKS, get_convention
from binmat.reports.count import Count, count
from binmat.reports.layers import Layer
from binmat.reports.model_report import Report, Side, report
from binmat.reports.storage import saved_bytes, stored_bits

__all__ = [
    "CONVENTIONS",
    "CROSS_CHECKS",
    "Comparison",
    "Convention",
    "Cost",
    "Count",
    "Layer",
    "Report",
    "Side",
    "compare",
    "count",
    "get_convention",
    "report",
    "saved_bytes",
    "stored_bits",
]
