"""Why a network cannot become a lowered graph: the reason, the place in the user's code and the way out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from binmat.errors import LoweringError, first_line

from .source_line import users_line

_DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)
_UNFIXED = "a size or a Python value depends on the values of a tensor"
_FIXED = "Use torch.where on tensors of fixed size"


def cannot_lower(network: str, inputs: Mapping[str, Tensor], error: Exception, node: fx.Node | None) -> LoweringError:
    """What to raise for an error while the network ran. node: the one that was running."""
    reason = first_line(error)
    way_out = "Call the network itself with inputs of these sizes: it must run there first"
    if isinstance(error, _DATA_DEPENDENT):
        reason, way_out = _UNFIXED, _FIXED
    elif "EffectType" in reason:
        reason, way_out = "it checks values while it runs, which a lowered graph cannot", "Compute it in closed form"
    shapes = [value.shape[-2:] if value.dim() > 2 else value.shape for value in inputs.values()]
    sizes = ", ".join("x".join(map(str, shape)) for shape in shapes)
    called = f" ({_place(node)})" if node else ""
    return LoweringError(f"{network} cannot be lowered at {sizes}: {reason}{called}. {way_out}")


def refuse_changes(network: str, state: Mapping[str, Tensor]) -> None:
    """Raise LoweringError where the network has written into its state. state: functional tensors, by name."""
    for name, value in state.items():
        assert isinstance(value, FunctionalTensor)
        if torch._functionalize_has_data_mutation(value.elem):  # type: ignore[attr-defined]
            key = name.removeprefix("owner.")
            raise LoweringError(
                f"{network} changes its '{key}' in evaluation mode, and a lowered graph keeps nothing between frames. "
                "Make it an input and an output"
            )


def refuse_random(network: str, graph: fx.Graph) -> None:
    """Raise LoweringError for an operator that draws random numbers."""
    for node in graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise LoweringError(
                f"{network} draws random numbers in evaluation mode ({_place(node)}). "
                "Make them an input, or draw them only where self.training is true"
            )


def refuse_unfixed(network: str, graph: fx.Graph) -> None:
    """Raise LoweringError for an operator whose result, or its size, is known only once the graph runs."""
    for node in graph.nodes:
        value = node.meta.get("val")
        sizes = value.shape if isinstance(value, Tensor) else (value,)
        if any(isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)) for size in sizes):
            raise LoweringError(f"{network} cannot be lowered: {_UNFIXED} ({_place(node)}). {_FIXED}")


def _place(node: fx.Node) -> str:
    """What a node is and, where that is known, the user's line that it comes from."""
    line = users_line(node)
    name = node.target if isinstance(node.target, (str, torch._ops.OpOverload)) else node.target.__name__
    kind = "layer" if node.op == "call_module" else "operator"
    return f"{kind} '{name}' at {line}" if line else f"{kind} '{name}'"
