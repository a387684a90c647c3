"""Trace a network into torch.fx graphs, one per mode, that run on the network's own layers."""

from __future__ import annotations

import inspect
import linecache
import traceback
from typing import Any

import torch
from torch import fx, nn

from binmat.errors import LoweringError, TraceError
from binmat.model_defs.network import Example, Network


class Tracer(fx.Tracer):
    """Stops at torch.nn's own layers and at binmat layers that say ``is_leaf``; traces through the rest."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return bool(getattr(m, "is_leaf", False)) or super().is_leaf_module(m, module_qualified_name)


class Program:
    """An fx graph compiled to a function of the module that owns its layers.

    Unlike a GraphModule it holds no layer itself: whatever replaces, moves or casts the owner's layers is seen by
    the next call, and the owner's state_dict keeps its keys.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.compile()

    def compile(self) -> None:
        """Check the graph and make its code anew; to be called after every edit."""
        self.graph.lint()
        code = self.graph.python_code("self")
        scope = dict(code.globals)
        exec(compile(code.src, "<binmat program>", "exec"), scope)
        self.function = scope["forward"]

    def __call__(self, owner: nn.Module, *args: Any) -> Any:
        return self.function(owner, *args)

    def __reduce__(self) -> tuple[type[Program], tuple[fx.Graph]]:
        return Program, (self.graph,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        graph = fx.Graph(tracer_cls=self.graph._tracer_cls)
        graph.output(graph.graph_copy(self.graph, {}))
        return Program(graph)


class TracedModule(Network):
    """Any fx-traceable module as a :class:`Network` with the one mode ``forward`` and the same state_dict keys."""

    name = "module"
    min_size = 1

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.name = type(module).__name__
        graph = _trace_method(module, "forward")
        for key, child in module.named_children():
            self.add_module(key, child)
        for key, parameter in module.named_parameters(recurse=False):
            self.register_parameter(key, parameter)
        persistent = module.state_dict()
        for key, buffer in module.named_buffers(recurse=False):
            self.register_buffer(key, buffer, persistent=key in persistent)
        self.programs["forward"] = Program(graph)
        self.train(module.training)

    def forward(self, *args: Any) -> Any:
        return self.run("forward", *args)

    def example(
        self, height: int, width: int, downsample_ratio: float = 1.0, device: torch.device | str = "cpu"
    ) -> Example:
        """One image of the first convolution's channels, where that is all the module takes. Raises LoweringError."""
        graph = graphs(self)["forward"]
        names = [node.name for node in graph.nodes if node.op == "placeholder" and not node.args]
        first = next((layer for layer in self.modules() if isinstance(layer, nn.Conv2d)), None)
        if len(names) != 1 or first is None or downsample_ratio != 1:
            raise LoweringError(
                f"{self.name} takes {', '.join(names) or 'nothing'}: say what its deployment call is with an Example"
            )
        result = graph.output_node().args[0]
        outputs = len(result) if isinstance(result, (tuple, list)) else 1
        image = torch.zeros(1, first.in_channels, height, width, device=device)
        return Example("forward", {names[0]: image}, tuple(f"output{i}" for i in range(outputs)))


def trace(module: nn.Module) -> Network:
    """Give the network a graph for every mode; any other module becomes a :class:`TracedModule`.

    A :class:`Network` is changed in place (its layers stay where they are); one that is traced already is returned
    as it is. Raises TraceError that names the line which torch.fx cannot follow.
    """
    if not isinstance(module, Network):
        return TracedModule(module)
    for mode, method in module.modes.items():
        if mode not in module.programs:
            module.programs[mode] = Program(_trace_method(module, method))
    return module


def graphs(network: Network) -> dict[str, fx.Graph]:
    """The graphs of a traced network by mode."""
    return {mode: program.graph for mode, program in network.programs.items() if isinstance(program, Program)}


def recompile(network: Network) -> None:
    """Make every program's code anew after its graph was edited."""
    for program in network.programs.values():
        if isinstance(program, Program):
            program.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
            program.compile()


def _trace_method(module: nn.Module, method: str) -> fx.Graph:
    tracer = Tracer()
    tracer.traced_func_name = method
    try:
        graph = tracer.trace(module)
    except Exception as error:
        raise TraceError(_explain(error, module, method)) from error
    # fx leaves tensors that the code makes on the module as plain attributes, which would neither move nor be copied.
    for name in [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]:
        value = vars(module).pop(name)
        module.register_buffer(name, value, persistent=False)
    _put_input_first(graph)
    return graph


def _put_input_first(graph: fx.Graph) -> None:
    """Calls that name their input, as in conv(input=x), take it by position: passes look there, and layers agree."""
    for node in graph.nodes:
        if node.op in ("call_module", "call_function") and not node.args and "input" in node.kwargs:
            node.args = (node.kwargs["input"],)
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "input"}


def _explain(error: Exception, module: nn.Module, method: str) -> str:
    where = f"{type(module).__name__}.{method}"
    torch_root = inspect.getfile(torch).rsplit("/", 1)[0]
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((torch_root, "<"))]
    own = [f for f in frames if f.filename != __file__]
    if own:
        frame = own[-1]
        source = (frame.line or linecache.getline(frame.filename, frame.lineno or 0)).strip()
        where = f"{where}, at {frame.filename}:{frame.lineno}: {source}"
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"torch.fx cannot trace {where} ({reason}). Make the line independent of tensor values, "
        "or move it into a submodule with the class attribute is_leaf = True"
    )
