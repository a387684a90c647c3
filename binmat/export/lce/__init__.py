"""From a lowered graph to a Larq Compute Engine model: one module per family of operators."""

from __future__ import annotations

from binmat.export.lce.writer import LceModel, export_lce

__all__ = ["LceModel", "export_lce"]
