"""Any module as a network: the graph of one call, on the module's own layers."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from binmat.errors import BinmatError, SizeError, TraceError, first_line
from binmat.model_defs.example_inputs import check_pixels
from binmat.model_defs.network import Example, Network

from .call_structure import Call, Structure, tensors_in
from .call_tracer import RecordedCall, record_call, tensors_of
from .example_image import example_image
from .parametrizations import copied
from .part_calls import rename_parts
from .program import Program
from .same_results import first_difference, with_equal_chance
from .traced_number import check_size

#: Heights and widths of the image that a module is traced with where no size is given: until one fits.
USUAL_SIZES = ((64, 64), (224, 224))
#: The graph of training, where it is not the one of evaluation.
TRAINING = "forward in training"


class TracedModule(Network):
    """Any module as a :class:`Network` with one mode, ``forward``, the same call and the same state_dict keys.

    size: (height, width) of the image that it is traced with where no example is given. example: the arguments of the
    call, by the names of ``forward``'s parameters and nested as it takes them, in ``inputs``; its ``outputs`` may be
    empty. Without one the module is called with :func:`binmat.transforms.example_image.example_image`.

    The graph follows the sizes of its inputs. Where the module's code decides by a size, the graph raises SizeError at
    a size for which it would decide otherwise. Training has a graph of its own where that is another one. A child or
    tensor whose name :class:`Network` uses itself gets an underscore behind it.

    Raises TraceError for what cannot be recorded, and where the graph does not compute what the module computes, and
    InputError for an example that does not fit the module's call.
    """

    name = "module"
    min_size = 1

    def __init__(self, module: nn.Module, size: tuple[int, int] | None = None, example: Example | None = None) -> None:
        super().__init__()
        self.name = type(module).__name__
        self.takes_an_image = example is None
        recorded, values = self._record(module, example.inputs) if example else self._guess(module, size)
        self.results = {"forward": Structure(recorded.result)}
        outputs = [f"output_{name}" if name in self.call.names else name for name in self.results["forward"].names]
        self.traced_example = Example(
            "forward",
            dict(zip(self.call.names, values, strict=True)),
            (example.outputs if example else ()) or tuple(outputs),
        )
        self._adopt(module)
        self._add("forward", recorded)
        self.training = module.training  # The layers keep theirs: a frozen batch norm stays so.
        #: How many copies of the example, side by side as a batch, training was traced with.
        self.training_copies = 1
        #: Why the module cannot be trained; empty where it can.
        self.untrainable = ""

    def _record(self, module: nn.Module, arguments: Mapping[str, Any]) -> tuple[RecordedCall, list[Tensor]]:
        self.call = Call(module, arguments)
        inputs = self.call.by_name(arguments)
        return record_call(module, self.call, inputs, training=False), list(inputs.values())

    def _guess(self, module: nn.Module, size: tuple[int, int] | None) -> tuple[RecordedCall, list[Tensor]]:
        """Call the module with an image, at the usual sizes where none is given."""
        if size:
            check_pixels(size)
        first: TraceError | None = None
        for height, width in [size] if size else USUAL_SIZES:
            if isinstance(module, torch.jit.ScriptModule):
                raise TraceError(f"{self.name} is compiled (torch.jit): pass the Python module it was made from")
            arguments = example_image(module, (height, width))
            try:
                return self._record(module, arguments)
            except BinmatError as error:
                shapes = [f"{name} {list(value.shape)}" for name, value in self.call.by_name(arguments).items()]
                first = first or TraceError(
                    f"{error}. It was called with {', '.join(shapes)}: where that is not what it takes, pass "
                    'size=(height, width) or example=Example("forward", {argument: tensor, ...}, ())'
                )
        assert first is not None
        raise first

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = self.run("forward", *self.call.tensors(args, kwargs))
        result = self.results[TRAINING if self.training and TRAINING in self.results else "forward"]
        count = len(result.names)
        own, added = result.rebuild(tensors[:count]), tensors[count:]
        if not added:
            return own
        # A sparse decoder's side outputs stand behind the module's own.
        if isinstance(own, dict):
            assert self.conversion is not None
            for name, value in zip(self.conversion.side_outputs, added, strict=True):
                own[f"{name}_" if name in own else name] = value
            return own
        if isinstance(own, list):
            return [*own, *added]
        return (*(own if isinstance(own, tuple) else (own,)), *added)

    def run(self, mode: str, *args: Any) -> Any:
        if self.training and self.untrainable:
            raise TraceError(self.untrainable)
        return super().run(TRAINING if self.training and TRAINING in self.programs else mode, *args)

    def example(
        self, height: int, width: int, downsample_ratio: float = 1.0, device: torch.device | str = "cpu"
    ) -> Example:
        """The call that the module was traced with; where it is one image, an image of this size.

        Raises SizeError for another size of a call that was given.
        """
        self.refuse_ratio(downsample_ratio)
        traced = self.traced_example
        assert traced is not None
        if not self.takes_an_image and (height, width) != traced.size:
            raise SizeError(
                f"{self.name} was traced with example inputs of {traced.size[0]}x{traced.size[1]}: "
                f"for {height}x{width} pass an Example with its inputs at that size"
            )
        inputs = {
            name: torch.zeros(*value.shape[:-2], height, width, device=device)
            if self.takes_an_image and isinstance(value, Tensor) and value.dim() > 3
            else value
            for name, value in traced.inputs.items()
        }
        return Example("forward", inputs, self._with_side_outputs(traced.outputs))

    def flattened(self, example: Example) -> Example:
        """An example whose inputs are the tensors of the module's arguments, by the names of the graph."""
        assert self.traced_example is not None
        flat = set(example.inputs) == set(self.call.names)
        inputs = example.inputs if flat else self.call.by_name(example.inputs)
        outputs = self._with_side_outputs(example.outputs or self.traced_example.outputs)
        return Example("forward", {**inputs}, outputs)

    def _with_side_outputs(self, outputs: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the module's own outputs and behind them those of a sparse decoder, where they are not named yet."""
        if self.conversion is None or len(outputs) != len(self.results["forward"].names):
            return outputs
        taken = {*outputs, *self.call.names}
        return (*outputs, *(f"{name}_" if name in taken else name for name in self.conversion.side_outputs))

    def _adopt(self, module: nn.Module) -> None:
        """Take the module's layers, parameters and buffers; plain tensors become buffers, which move along."""
        persistent = module.state_dict(keep_vars=True)
        self._renamed: dict[str, str] = {}
        for key, child in module._modules.items():  # With the second names of children that have two.
            if child is not None:
                self._renamed[key] = self._free(key, child)
                self.add_module(self._renamed[key], child)
        for key, value in tensors_of(module, recurse=False).items():
            name = self._renamed[key] = self._free(key, value)
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value, persistent=key in persistent)
        for child in module.children():
            for part in child.modules():
                for key in [key for key, value in vars(part).items() if isinstance(value, Tensor)]:
                    part.register_buffer(key, vars(part).pop(key), persistent=False)

    def _free(self, name: str, value: Any) -> str:
        while getattr(self, name, value) is not value:
            name += "_"
        return name

    def _add(self, mode: str, recorded: RecordedCall) -> None:
        """Run a recorded call in a mode."""
        renamed = self._renamed | {key: self._free(key, value) for key, value in recorded.constants.items()}
        for key, value in recorded.constants.items():
            self.register_buffer(renamed[key], value, persistent=False)
        self.programs[mode] = Program(self._at_home(recorded, renamed))

    def _at_home(self, recorded: RecordedCall, renamed: Mapping[str, str] | None = None) -> fx.Graph:
        """The recorded graph with the names that parts have here."""

        def here(name: str) -> str:
            first, dot, rest = name.partition(".")
            return (renamed or self._renamed).get(first, first) + dot + rest

        for node in recorded.graph.nodes:
            if node.op in ("call_module", "get_attr"):
                node.target = here(str(node.target))
            rename_parts(node, here)
        return recorded.graph

    def pin_sizes(self, module: nn.Module) -> None:
        """Let the graphs refuse other sizes where the module's code gives another graph for them.

        A size that leaves PyTorch (in a loop, a string, a function of Python's) is a plain number, which no graph
        follows. So every size is tried: at twice the batch, at twice the height and width, and so on.
        """
        for mode in self.programs:
            graph, training = self.program(mode).graph, mode == TRAINING
            count = self.training_copies if training else 1
            inputs = {
                name: copies(value, count) for name, value in zip(self.call.names, self._traced_values(), strict=True)
            }
            before = _code(graph)
            pinned = []
            for dimensions in _groups(inputs):
                larger = {
                    name: value.new_empty([2 * n if (name, d) in dimensions else n for d, n in enumerate(value.shape)])
                    for name, value in inputs.items()
                }
                try:
                    follows = _code(self._at_home(record_call(module, self.call, larger, training))) == before
                except BinmatError:
                    # What a vector's length does not fit refuses it, a layer for example.
                    follows = len(dimensions) == 1 and dimensions[0][1] > 0
                pinned += [] if follows else dimensions
            self._pin(graph, inputs, pinned)
            self.program(mode).compile()

    def _pin(self, graph: fx.Graph, inputs: Mapping[str, Tensor], dimensions: Sequence[tuple[str, int]]) -> None:
        placeholders = {node.target: node for node in graph.nodes if node.op == "placeholder"}
        last = next(reversed(placeholders.values()), None)
        for name, dimension in dimensions:
            assert last is not None
            with graph.inserting_after(last):
                shape = graph.call_function(getattr, (placeholders[name], "shape"))
            with graph.inserting_after(shape):
                size = graph.call_function(operator.getitem, (shape, dimension))
            with graph.inserting_after(size):
                line = f"the code of {self.name}, by dimension {dimension} of '{name}',"
                last = graph.call_function(check_size, (size, inputs[name].shape[dimension], line))

    def check(self, module: nn.Module) -> None:
        """Run the module that this was made of, and compare. Raises TraceError where the graph differs."""
        self._compare(module, self._traced_values(), training=False)

    def add_training(self, module: nn.Module) -> None:
        """Trace training too; it is compared as well. What cannot be trained says so when it is."""
        self.untrainable = self._trace_training(module, self._traced_values())

    def _traced_values(self) -> list[Tensor]:
        assert self.traced_example is not None
        return [value for value in self.traced_example.inputs.values() if isinstance(value, Tensor)]

    def _trace_training(self, module: nn.Module, values: Sequence[Tensor]) -> str:
        # Batch norm refuses a batch of one behind a global pool.
        for self.training_copies in (1, 2):
            batch = [copies(value, self.training_copies) for value in values]
            try:
                recorded = record_call(module, self.call, dict(zip(self.call.names, batch, strict=True)), training=True)
                if _code(self._at_home(recorded)) == _code(self.program("forward").graph):
                    self._compare(module, batch, training=True)
                    return ""
                self._add(TRAINING, recorded)
                self.results[TRAINING] = Structure(recorded.result)
                self._compare(module, batch, training=True)
                return ""
            except BinmatError as error:
                reason = str(error)
                self.programs.pop(TRAINING, None)
                self.results.pop(TRAINING, None)
        return f"{self.name} cannot be trained: {reason}"

    def program(self, mode: str) -> Program:
        program = self.programs[mode]
        assert isinstance(program, Program)
        return program

    def _compare(self, module: nn.Module, values: Sequence[Tensor], training: bool) -> None:
        """Raise TraceError where graph and module differ on two calls with these inputs, with equal random numbers.

        The second call sees what the first one has left behind.
        """

        def run(runner: nn.Module) -> tuple[list[Tensor], list[Tensor | None]]:
            runner = copied(runner)
            if runner.training != training:
                runner.train(training)
            with torch.set_grad_enabled(training):
                try:
                    calls = [self.call(runner, [value.clone() for value in values]) for _ in range(2)]
                    results = [*tensors_in(calls[0]), *tensors_in(calls[1])]
                    return results, _gradients(runner, results)
                except BinmatError:
                    raise
                except Exception as error:
                    raise TraceError(f"{self.name} fails on its example inputs: {first_line(error)}") from error

        found, gradients = zip(*with_equal_chance(partial(run, module), partial(run, self)), strict=True)
        results = self.results[TRAINING if training and TRAINING in self.results else "forward"]
        index = first_difference(*found)
        if index is not None:
            name = (results.names * 2)[index] if index < 2 * len(results.names) else "its number of results"
            raise TraceError(
                f"the graph of {self.name} does not compute what {self.name} computes: '{name}' differs in "
                f"{'training' if training else 'evaluation'}. Its forward may depend on more than its inputs, "
                "for example on what an earlier call left behind: give it that as an input"
            )
        if not training:
            return
        names = [name for name, _ in module.named_parameters()]
        other = {self._new_name(name): value for name, value in zip(names, gradients[0], strict=True)}
        own = dict(zip((name for name, _ in self.named_parameters()), gradients[1], strict=True))
        different = first_difference(list(other.values()), [own[name] for name in other])
        if different is not None:
            raise TraceError(
                f"the gradient of '{names[different]}' is not the one that {self.name} itself gives: its code has a "
                "backward pass of its own (an autograd.Function, a hook, a reentrant checkpoint), which is not recorded"
            )

    def _new_name(self, name: str) -> str:
        first, dot, rest = name.partition(".")
        return self._renamed.get(first, first) + dot + rest


def _gradients(network: nn.Module, results: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients that the sum of all results gives the parameters; None where there is none."""
    summed = [result.sum() for result in results if result.requires_grad]
    if summed:
        torch.stack([value.double() for value in summed]).sum().backward()
    return [parameter.grad for parameter in network.parameters()]


def _groups(inputs: Mapping[str, Tensor]) -> list[list[tuple[str, int]]]:
    """(input, dimension) of the sizes that may change together: the batch; height and width; others one by one."""
    batch = [(name, 0) for name, value in inputs.items() if value.dim()]
    space = [(name, value.dim() + d) for name, value in inputs.items() if value.dim() > 3 for d in (-2, -1)]
    others = [[(name, d)] for name, value in inputs.items() if value.dim() < 4 for d in range(1, value.dim())]
    return [group for group in (batch, space, *others) if group]


def copies(value: Any, count: int) -> Any:
    """So many copies of a tensor side by side as a batch; what has no batch stays as it is."""
    return torch.cat([value] * count) if isinstance(value, Tensor) and value.dim() else value


def _code(graph: fx.Graph) -> str:
    return graph.python_code("self").src
