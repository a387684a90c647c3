"""From a method to its torch.fx graph, with one message for what cannot be traced."""

from __future__ import annotations

import inspect
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from binmat.errors import TraceError, first_line

from .part_calls import note_inputs, note_outputs
from .tracing_lock import TRACING_LOCK


class Tracer(fx.Tracer):
    """Stops at torch.nn's own layers and at binmat layers that say ``is_leaf``; traces through the rest.

    torch.fx patches ``nn.Module`` for the whole process; what other threads call and read stays as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.thread = threading.get_ident()
        self.calls: Counter[str] = Counter()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return bool(getattr(m, "is_leaf", False)) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        part = self.path_of_module(m)
        note_inputs(part, self.calls[part], (args, kwargs), _node_of)
        result = super().call_module(m, forward, args, kwargs)
        note_outputs(part, self.calls[part], result, _node_of)
        self.calls[part] += 1
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def _node_of(leaf: Any) -> fx.Node | None:
    return leaf.node if isinstance(leaf, fx.Proxy) else None


def trace_method(module: nn.Module, method: str = "forward", name: str = "") -> fx.Graph:
    """The graph of one method of a module.

    name: the module's path in its network, for the message. Raises TraceError that names the line which torch.fx cannot
    follow, the reason and the way out.

    >>> [node.op for node in trace_method(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU())).nodes]
    ['placeholder', 'call_module', 'call_module', 'output']
    """
    tracer = Tracer()
    tracer.traced_func_name = method
    try:
        with TRACING_LOCK:
            graph = tracer.trace(module)
    except Exception as error:
        raise TraceError(_explain(error, module, method, name)) from error
    # fx leaves tensors that the code makes on the module as plain attributes, which would neither move nor be copied.
    for key in [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]:
        module.register_buffer(key, vars(module).pop(key), persistent=False)
    for node in graph.nodes:
        # Passes look for a call's input by position, also where the code names it, as in conv(input=x).
        if node.op in ("call_module", "call_function") and not node.args and "input" in node.kwargs:
            node.args = (node.kwargs["input"],)
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "input"}
    _read_results_of_writes(graph, module)
    return graph


def works_in_place(node: fx.Node, owner: nn.Module) -> bool:
    """Whether a node writes its result into an operand."""
    if node.op == "call_module":
        return bool(getattr(owner.get_submodule(str(node.target)), "inplace", False))
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    named = name == "setitem" or (name.endswith("_") and not name.endswith("__"))
    return node.op.startswith("call") and (named or bool(node.kwargs.get("inplace")) or "out" in node.kwargs)


def _read_results_of_writes(graph: fx.Graph, owner: nn.Module) -> None:
    """Let those who read an operand after it was written to read the result, so that passes see the dependence."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        operand = node.args[0] if node.args else None
        if isinstance(operand, fx.Node) and "out" not in node.kwargs and works_in_place(node, owner):
            for user in [user for user in operand.users if order[user] > order[node]]:
                user.replace_input_with(operand, node)


def _explain(error: Exception, module: nn.Module, method: str, name: str) -> str:
    where = f"{type(module).__name__}.{method}" + (f" of '{name}'" if name else "")
    torch_root = inspect.getfile(torch).rsplit("/", 1)[0]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((torch_root, __file__, "<")):
            where = f"{where}, at {frame.filename}:{frame.lineno}: {frame.line}"
            break
    reason = first_line(error)
    return (
        f"torch.fx cannot trace {where} ({reason}). Make the line independent of tensor values, "
        "or move it into a submodule with the class attribute is_leaf = True"
    )
