"""A torch.fx graph as a function of the module that owns its layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn


class Program:
    """An fx graph compiled to a function of the module that owns its layers.

    Unlike a GraphModule it holds no layers, so a call uses the owner's layers as they are then, and the owner's
    state_dict keeps its keys. Copies and pickles hold the graph and compile it anew.

    >>> from binmat.transforms.tracer import trace_method
    >>> import torch
    >>> owner = nn.Sequential(nn.ReLU())
    >>> program = Program(trace_method(owner))
    >>> owner[0] = nn.Hardtanh()
    >>> program(owner, torch.tensor([-3.0, 0.5, 3.0]))
    tensor([-1.0000,  0.5000,  1.0000])
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.compile()

    def compile(self) -> None:
        """Check the graph and make its code anew; call it after every edit."""
        self.graph.lint()
        # A GraphModule of an empty graph holds no layers. Setting its graph compiles a method that looks layers up by
        # name in the module that it is called with.
        compiler = fx.GraphModule({}, fx.Graph())
        compiler.graph = self.graph
        self.graph.owning_module = None
        self.function = type(compiler).forward

    def __call__(self, owner: nn.Module, *args: Any) -> Any:
        grad, autocast = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        try:
            return self.function(owner, *args)
        except Exception:
            # The graph may have failed between entering and leaving no_grad or autocast.
            torch.set_grad_enabled(grad)
            torch.set_autocast_enabled("cpu", autocast)
            raise

    def __reduce__(self) -> tuple[type[Program], tuple[fx.Graph]]:
        return Program, (self.graph,)
