"""Larq Compute Engine as a backend."""

from __future__ import annotations

import copy

from torch import fx

from binmat.backends.lce.interpreter import LceInterpreter
from binmat.backends.lce.model import LceModel
from binmat.backends.lce.writer import write_model
from binmat.transforms.lowering.fuse_bit_outputs import FuseBitOutputs
from binmat.transforms.lowering.lowered_graph import LoweredGraph


class LceBackend:
    """.tflite files: 4-D inputs and outputs are NHWC, a state is an input and an output of the same name.

    Verification runs LCE's default kernel and its reference kernel, which is plain enough to be trusted. The reference
    kernel cannot run every operator, so it gets the portable form of the same graph.
    """

    name = "lce"
    title = "LCE"
    suffix = ".tflite"
    kernels: tuple[str, ...] = ("optimized", "reference")

    def write(self, lowered: LoweredGraph, kernel: str | None = None) -> LceModel:
        """See :class:`binmat.backends.backend.Backend`."""
        graph = fx.GraphModule(lowered.module, copy.deepcopy(lowered.module.graph))
        fused = LoweredGraph(FuseBitOutputs().apply(graph), lowered.inputs, lowered.outputs)
        return write_model(fused, portable=kernel == "reference")

    def runner(self, content: bytes, kernel: str) -> LceInterpreter:
        """See :class:`binmat.backends.backend.Backend`."""
        return LceInterpreter(content, kernel)


LCE = LceBackend()
