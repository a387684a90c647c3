"""Add a shortcut round every binary convolution."""

from __future__ import annotations

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx
from torch.nn import functional as F

from binmat.model_defs.network import Network
from binmat.nn import BinaryConv2d
from binmat.nn.operators import OPERATORS

from .graph_pass import GraphPass
from .part_calls import hand_over
from .patterns import BinaryBlock, binary_blocks, called_module, operator_at
from .trace import graphs, recompile


@dataclass(eq=False)
class AddShortcuts(GraphPass[Network]):
    """batch_norm(binary_conv(x)) + shortcut(x), before the activation function, as ReActNet has it.

    ``same``: the identity, where channels and size stay the same (Liu et al., Bi-Real Net, ECCV 2018, Sec. 3.1).
    ``all``: also 2x2 average pooling where the stride is 2, and the input twice along the channels where they double
    (Liu et al., ReActNet, ECCV 2020, Fig. 4). Convolutions that change the channels otherwise get none,
    and neither do those that have a shortcut already, as all of an SBB's do. untouched: names of layers that were
    binary before; they get none either.

    >>> from binmat.quantizers import get_scheme
    >>> from binmat.transforms.binarize import Binarize
    >>> from binmat.transforms.trace import trace
    >>> module = torch.nn.Sequential(*(torch.nn.Conv2d(*channels, 1) for channels in ((3, 8), (8, 8), (8, 1))))
    >>> network = AddShortcuts("same").apply(Binarize(get_scheme("bnn")).apply(trace(module)))
    >>> [node.name for node in graphs(network)["forward"].nodes]
    ['input_1', '_0', '_1', 'add', '_2', 'output']
    """

    which: Literal["same", "all"]
    untouched: Collection[str] = ()

    def apply(self, network: Network) -> Network:
        for graph in graphs(network).values():
            for block in binary_blocks(graph, network):
                untouched = block.layer.target in self.untouched
                if isinstance(block.module, BinaryConv2d) and not untouched and self._fits(block.module):
                    self._add(graph, block, block.module, network)
        recompile(network)
        return network

    def _fits(self, conv: BinaryConv2d) -> bool:
        reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        if any(2 * int(p) != r for p, r in zip(conv.padding, reach, strict=True)):
            return False
        same = conv.in_channels == conv.out_channels
        if self.which == "same":
            return same and conv.stride == (1, 1)
        return (same or 2 * conv.in_channels == conv.out_channels) and conv.stride in ((1, 1), (2, 2))

    @staticmethod
    def _add(graph: fx.Graph, block: BinaryBlock, conv: BinaryConv2d, network: Network) -> None:
        source: Any = block.layer.args[0]
        additions = [user for user in block.tail.users if operator_at(user, network) is OPERATORS["add"]]
        added = {node for addition in additions for node in addition.all_input_nodes if node is not block.tail}
        if any(_only_rearranges(node, source, network) for node in added):
            return
        with graph.inserting_after(block.tail):
            total = graph.call_function(operator.add, (block.tail, source))
        block.tail.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
        hand_over(block.tail, total, besides=[block.layer.target, block.tail.target])
        with graph.inserting_before(total):
            if conv.stride == (2, 2):
                # ceil_mode gives the convolution's own output size at odd sizes.
                source = graph.call_function(F.avg_pool2d, (source, 2, 2, 0, True, False))
            if conv.out_channels != conv.in_channels:
                source = graph.call_function(torch.cat, ([source, source],), {"dim": 1})
        total.update_arg(1, source)


def _only_rearranges(node: fx.Node, source: fx.Node, network: Network) -> bool:
    """Whether the node is the source, or pooled, repeated or averaged out of it by nothing that has weights."""
    if node is source:
        return True
    module = called_module(node, network)
    if module is not None and any(True for _ in module.parameters()):
        return False
    return bool(node.all_input_nodes) and all(_only_rearranges(n, source, network) for n in node.all_input_nodes)
