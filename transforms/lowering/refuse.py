"""Why a network cannot become a lowered graph: the reason, the place in the user's code and the way out."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from binmat.errors import LoweringError

_DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)
_SELECT_INSTEAD = "a size or a Python value depends on the values of a tensor. Use torch.where on tensors of fixed size"
#: Directories whose code is not the user's.
_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]), "<")


def cannot_lower(network: str, inputs: Mapping[str, Tensor], error: Exception, node: fx.Node | None) -> LoweringError:
    """What to raise for an error while the network ran. node: the one that was running."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    way_out = "Call the network itself with inputs of these sizes: it must run there first"
    if isinstance(error, _DATA_DEPENDENT):
        reason, way_out = _SELECT_INSTEAD.split(". ")
    elif "EffectType" in reason:
        reason, way_out = "it checks values while it runs, which a lowered graph cannot", "Compute it in closed form"
    line = (source_line(node) if node else "") or _last_line_of_user("".join(traceback.format_tb(error.__traceback__)))
    shapes = [value.shape[-2:] if value.dim() > 2 else value.shape for value in inputs.values()]
    sizes = ", ".join("x".join(map(str, shape)) for shape in shapes)
    called = f" ({_call(node)}{line})" if node else ""
    return LoweringError(f"{network} cannot be lowered at {sizes}: {reason}{called}. {way_out}")


def refuse_unfixed(network: str, graph: fx.Graph) -> None:
    """Raise LoweringError for an operator that draws random numbers, or whose result's size depends on values."""
    for node in graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise LoweringError(
                f"{network} draws random numbers in evaluation mode ({node.target}{source_line(node)}). "
                "Make them an input, or draw them only where self.training is true"
            )
        value = node.meta.get("val")
        sizes = value.shape if isinstance(value, Tensor) else (value,)
        if any(isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)) for size in sizes):
            reason, way_out = _SELECT_INSTEAD.split(". ")
            raise LoweringError(f"{network} cannot be lowered: {reason} ({node.target}{source_line(node)}). {way_out}")


def source_line(node: fx.Node) -> str:
    """`` at file:line: code`` of the user's line that a node comes from, or nothing where it is not known."""
    return _last_line_of_user(node.stack_trace or "")


def _last_line_of_user(stack_trace: str) -> str:
    frames = re.findall(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)', stack_trace)
    theirs = [frame for frame in frames if not frame[0].startswith(_OURS)]
    return " at {}:{}: {}".format(*theirs[-1]) if theirs else ""


def _call(node: fx.Node) -> str:
    kind = "layer" if node.op == "call_module" else "function"
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
    return f"{kind} '{name}'"
