"""Larq Compute Engine as a backend."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import fx

from binmat.backends.backend import Port, Signature
from binmat.backends.lce.interpreter import LceInterpreter
from binmat.backends.lce.layout import preferred_order
from binmat.backends.lce.metadata import read_metadata
from binmat.backends.lce.model import LceModel
from binmat.backends.lce.same_file import model_of_file
from binmat.backends.lce.tflite.contents import Contents, read_contents
from binmat.backends.lce.writer import write_model
from binmat.errors import VerificationError
from binmat.transforms.lowering.fuse_bit_outputs import FuseBitOutputs
from binmat.transforms.lowering.lowered_graph import LoweredGraph
from binmat.transforms.lowering.sign_packing import WORD


class LceBackend:
    """.tflite files: 4-D inputs and outputs are NHWC, a state is an input and an output of the same name.

    Verification runs LCE's default kernel, and the binary operators also by its reference kernel, which is plain enough
    to be trusted. Float operators are the same code in both. The reference kernel cannot run every binary operator, so
    it gets the portable form of the same graph.
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

    def signature(self, content: bytes) -> Signature:
        """See :class:`binmat.backends.backend.Backend`."""
        contents, about = read_contents(content), read_metadata(content)
        names = {"inputs": [name for name, _ in contents.inputs], "outputs": [name for name, _ in contents.outputs]}
        for key, value in {"layout": "NHWC", **names}.items():
            if about.get(key) != value:
                raise VerificationError(f"the file's metadata says {key} {about.get(key)}, and it has {value}")
        _check_tail_bits(contents)
        return Signature(_ports(contents, contents.inputs), _ports(contents, contents.outputs))

    def model_of_file(self, content: bytes, fresh: LceModel) -> LceModel:
        """See :class:`binmat.backends.backend.Backend`."""
        return model_of_file(content, fresh)

    def runner(self, content: bytes, kernel: str) -> LceInterpreter:
        """See :class:`binmat.backends.backend.Backend`."""
        return LceInterpreter(content, kernel)


def _check_tail_bits(contents: Contents) -> None:
    """Raise VerificationError where a packed weight has bits behind its last channel: some kernels would count them."""
    for op in contents.operators:
        if op.kind == "LceBconv2d":
            kernel, channels = contents.tensors[op.inputs[1]], op.options["channels_in"] % WORD
            if channels and kernel.data is not None and (kernel.data[..., -1].view(np.uint32) >> channels).any():
                raise VerificationError(f"tensor '{kernel.name}' has bits behind its last channel: export it again")


def _ports(contents: Contents, side: Sequence[tuple[str, int]]) -> tuple[Port, ...]:
    ports = []
    for name, tensor in side:
        found = contents.tensors[tensor]
        order = preferred_order(len(found.shape))
        shape = tuple(found.shape[order.index(dim)] for dim in range(len(order)))
        ports.append(Port(name, shape, torch.from_numpy(np.empty(0, found.dtype)).dtype))
    return tuple(ports)


LCE = LceBackend()
