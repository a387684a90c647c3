"""From a network to its lowered graph: one frame, fixed shapes, ATen operators and two binary ones."""

from __future__ import annotations

import torch
from torch import fx, nn

from binmat.errors import LoweringError
from binmat.model_defs.network import Example
from binmat.transforms.collector import collector_waits
from binmat.transforms.graph_pass import GraphPass

from .fold_affine import FoldAffine
from .fold_constants import FoldConstants
from .lowered_graph import LoweredGraph
from .recording import Recording, record
from .refuse import refuse_random, refuse_unfixed
from .remove_noops import RemoveNoOps

#: What is done to a lowered graph, in order.
LOWERING_PASSES: tuple[type[GraphPass[fx.GraphModule]], ...] = (RemoveNoOps, FoldConstants, FoldAffine)


def lower(network: nn.Module, example: Example, dtype: torch.dtype = torch.float32) -> LoweredGraph:
    """Flatten a network, in evaluation mode, at the sizes of its example inputs.

    Batch norm, scales and biases are folded into the convolutions (in float64); DoReFa's {0, 1} activations become
    +-1 with the sums corrected exactly; XNOR-Net's K map stays as float operators. The result computes what
    ``network.eval()`` computes, up to the rounding of ``dtype``: every float has this type, whatever type the network
    casts to; integers and booleans keep theirs. What is left out, and what becomes of operators, is said by
    :func:`binmat.transforms.lowering.recording.record`. Raises LoweringError.
    """
    return lower_recording(record(network, example), dtype)


def lower_recording(recording: Recording, dtype: torch.dtype = torch.float32) -> LoweredGraph:
    """The lowered graph of what was recorded; see :func:`lower`. It does not run the network again."""
    with collector_waits():
        return _lower(recording, dtype)

def _lower(recording: Recording, dtype: torch.dtype) -> LoweredGraph:
    module, example = recording.bound(dtype), recording.example
    refuse_random(recording.name, module.graph)
    for lowering_pass in LOWERING_PASSES:
        lowering_pass().apply(module)
    refuse_unfixed(recording.name, module.graph)
    results = module.graph.output_node().args[0]
    assert isinstance(results, (tuple, list))
    if len(example.outputs) != len(results):
        raise LoweringError(
            f"{recording.name} returns {len(results)} tensors in mode {example.mode} and its example names "
            f"{len(example.outputs)}: name every output"
        )
    return LoweredGraph(module, recording.tensors, example.outputs)
