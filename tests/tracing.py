"""One mode of a network as a graph of its own, made by the tracer that the passes use."""

from __future__ import annotations

from torch import fx

from binmat.model_defs.network import Network
from binmat.transforms.tracer import Tracer


def traced(net: Network, mode: str) -> fx.GraphModule:
    """The network itself stays as it is, so that the graph can be compared with it."""
    tracer = Tracer()
    tracer.traced_func_name = net.modes[mode]
    return fx.GraphModule(net, tracer.trace(net))
