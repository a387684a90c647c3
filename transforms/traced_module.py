"""Any module as a network: the graph of one call, on the module's own layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from binmat.errors import BinmatError, SizeError, TraceError
from binmat.model_defs.example_inputs import check_pixels
from binmat.model_defs.network import Example, Network

from .call_structure import Call, Structure, tensors_in
from .call_tracer import RecordedCall, record_call, tensors_of
from .example_image import example_image
from .parametrizations import copied
from .program import Program

#: Heights and widths of the image that a module is traced with where no size is given: until one fits.
USUAL_SIZES = ((64, 64), (224, 224))
#: The graph of training, where it is not the one of evaluation.
TRAINING = "forward in training"
#: Largest difference between module and graph, relative to the largest value: both run the same operators.
TOLERANCE = 1e-5


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
        # A sparse decoder's side outputs stand behind the module's own.
        return (*(own if isinstance(own, (tuple, list)) else (own,)), *added) if added else own

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
        results = self.program("forward").graph.output_node().args[0]
        assert isinstance(results, (tuple, list))
        added = range(len(traced.outputs), len(results))
        return Example("forward", inputs, (*traced.outputs, *(f"output{index}" for index in added)))

    def flattened(self, example: Example) -> Example:
        """An example whose inputs are the tensors of the module's arguments, by the names of the graph."""
        assert self.traced_example is not None
        flat = set(example.inputs) == set(self.call.names)
        inputs = example.inputs if flat else self.call.by_name(example.inputs)
        return Example("forward", {**inputs}, example.outputs or self.traced_example.outputs)

    def _adopt(self, module: nn.Module) -> None:
        """Take the module's layers, parameters and buffers; plain tensors become buffers, which move along."""
        persistent = module.state_dict(keep_vars=True)
        self._renamed: dict[str, str] = {}
        for key, child in module.named_children():
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
        for node in recorded.graph.nodes:
            if node.op in ("call_module", "get_attr"):
                first, dot, rest = str(node.target).partition(".")
                node.target = renamed.get(first, first) + dot + rest
        self.programs[mode] = Program(recorded.graph)

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
        batches = [values, [torch.cat([value, value]) if value.dim() else value for value in values]]
        for batch in batches:
            try:
                recorded = record_call(module, self.call, dict(zip(self.call.names, batch, strict=True)), training=True)
                if _code(recorded.graph) == _code(self.program("forward").graph):
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
        found = []
        for runner in (module, self):
            runner = copied(runner)
            if runner.training != training:
                runner.train(training)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                try:
                    calls = [self.call(runner, [value.clone() for value in values]) for _ in range(2)]
                except BinmatError:
                    raise
                except Exception as error:
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise TraceError(f"{self.name} fails on its example inputs: {reason}") from error
                found.append([*tensors_in(calls[0]), *tensors_in(calls[1])])
        names = self.results[TRAINING if training and TRAINING in self.results else "forward"].names
        for name, expected, actual in zip(names * 2, *found, strict=True):
            scale = expected.abs().max() if expected.numel() and expected.is_floating_point() else 1
            if not torch.allclose(actual, expected, rtol=0, atol=TOLERANCE * float(scale), equal_nan=True):
                raise TraceError(
                    f"the graph of {self.name} does not compute what {self.name} computes: '{name}' differs in "
                    f"{'training' if training else 'evaluation'}. Its forward may depend on more than its inputs, "
                    "for example on what an earlier call left behind: give it that as an input"
                )


def _code(graph: fx.Graph) -> str:
    return graph.python_code("self").src
