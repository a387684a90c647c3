"""One mode of a network as a graph of its own, made by the tracer that the passes use."""

from __future__ import annotations

from torch import fx

from binmat.model_defs.network import Network
from binmat.transforms.tracer import trace_method


def traced(net: Network, mode: str) -> fx.GraphModule:
    """The network itself stays as it is, so that the graph can be compared with it."""
    return fx.GraphModule(net, trace_method(net, net.modes[mode]))
