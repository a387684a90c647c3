"""What writes each operator of a lowered graph: one module per family. Importing the package registers every rule."""

from __future__ import annotations

from . import (
    activations,
    binary,
    convolution,
    elementwise,
    functions,
    indexing,
    pooling,
    reductions,
    resize,
    rounding,
    searches,
    shapes,
)

__all__ = [
    "activations",
    "binary",
    "convolution",
    "elementwise",
    "functions",
    "indexing",
    "pooling",
    "reductions",
    "resize",
    "rounding",
    "searches",
    "shapes",
]
