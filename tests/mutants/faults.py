"""The list of faults that verification must notice."""

from __future__ import annotations

from mutants.fault import in_order
from mutants.later_faults import FILE, WEIGHTS
from mutants.lowering_faults import FLOAT32, LOWERING
from mutants.writer_faults import WRITER

FAULTS = in_order([*LOWERING, *FLOAT32, *WRITER, *FILE, *WEIGHTS])
