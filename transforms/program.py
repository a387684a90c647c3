"""A torch.fx graph as a function of the module that owns its layers."""

from __future__ import annotations

from typing import Any

from torch import fx, nn


class Program:
    """An fx graph compiled to a function of the module that owns its layers.

    Unlike a GraphModule it holds no layer itself: whatever replaces, moves or casts the owner's layers is seen by
    the next call, and the owner's state_dict keeps its keys. Copies and pickles hold the graph and compile it anew.

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
        """Check the graph and make its code anew; to be called after every edit."""
        self.graph.lint()
        # A GraphModule made for an empty graph holds no layers. It compiles the graph that it is given next to a
        # method that looks layers up by name, in whichever module it is called with.
        compiler = fx.GraphModule({}, fx.Graph())
        compiler.graph = self.graph
        self.graph.owning_module = None
        self.function = type(compiler).forward

    def __call__(self, owner: nn.Module, *args: Any) -> Any:
        return self.function(owner, *args)

    def __reduce__(self) -> tuple[type[Program], tuple[fx.Graph]]:
        return Program, (self.graph,)
