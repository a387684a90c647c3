"""Let a binary convolution give bits where bits are all that is read of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from binmat.transforms.graph_pass import GraphPass

from . import binary_operators  # noqa: F401  (registers the operators)
from .constants import add_constant, clean_up, constant, is_constant
from .popcount_thresholds import popcount_thresholds


class FuseBitOutputs(GraphPass[fx.GraphModule]):
    """Makes a binary convolution and the binarization that alone reads it one operator, ``binary_conv2d_bits``.

    Multiplier, bias and threshold become one integer per channel. No floats remain, nor a second pass over the map.
    The new node keeps the binarization's name. Grouped convolutions stay as they are, because no backend has such a
    kernel. So do zero-padded ones: their windows at the border have fewer products, and one integer cannot hold both.
    """

    def apply(self, lowered: fx.GraphModule, /) -> fx.GraphModule:
        for node in list(lowered.graph.nodes):
            if node.target is torch.ops.binmat.binarize.default:
                x, threshold = node.args
                if _gives_bits(x) and is_constant(threshold):
                    self._fuse(lowered, x, node, threshold)
        return clean_up(lowered)

    @staticmethod
    def _fuse(lowered: fx.GraphModule, convolution: Any, binarization: fx.Node, threshold: fx.Node) -> None:
        x, *constants, stride, padding, dilation, groups, pad_value = convolution.args
        weight, multiplier, bias = (constant(lowered, node) for node in constants)
        levels = constant(lowered, threshold).expand(weight.shape[0])
        thresholds, flipped = popcount_thresholds(weight[0].numel(), multiplier.float(), bias.float(), levels.float())
        turned = torch.where(flipped.view(-1, 1, 1, 1), -weight, weight)
        fused = [add_constant(lowered, binarization, value) for value in (turned, thresholds)]
        binarization.target = torch.ops.binmat.binary_conv2d_bits.default
        binarization.args = (x, *fused, stride, padding, dilation, groups, pad_value)


def _gives_bits(node: Any) -> bool:
    """Whether the node is an ungrouped binary convolution, not padded with zeros, that one node reads."""
    if node.target is not torch.ops.binmat.binary_conv2d.default or len(node.users) != 1:
        return False
    _, *constants, _stride, padding, _dilation, groups, pad_value = node.args
    return bool(all(map(is_constant, constants)) and groups == 1 and (pad_value != 0 or not any(padding)))
