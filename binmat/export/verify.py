"""Proves that an exported LCE model computes what the lowered graph computes.

Two questions are kept apart. Does every operator compute what torch computes from the same inputs? Each node is
evaluated in torch on the values that LCE itself gave its inputs, so one node's rounding does not blur the next one's
check: a difference there is a bug. And how far do the outputs drift end to end, where rounding may flip a sign that
sits at its threshold? That is measured over consecutive frames with the states fed back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from binmat.errors import ExportError
from binmat.export.lce.segments import Look, run_in_segments
from binmat.export.lce.writer import LceModel, export_lce
from binmat.export.lce_interpreter import Kernel, LceInterpreter
from binmat.export.tflite.schema import Array
from binmat.export.verification import (
    CheckKind,
    KernelVerification,
    NodeCheck,
    OutputDifference,
    SignFlips,
    Verification,
    check,
)

__all__ = ["Verification", "check", "verify_lce"]

#: Relative to a tensor's range: float operators of TFLite differ from torch's by at most about 1e-5.
VALUE_LIMIT = 5e-5
#: Where an operator amplifies rounding, such as a normalisation of an almost constant map, LCE may differ by as much
#: as the result moves when the operands move by this much, relatively.
OPERAND_LIMIT = 1e-5
#: In units of the float32 spacing at |sum| * |multiplier| + |bias|: LCE rounds its own bias, product and sum.
ROUNDINGS = 4
#: LCE's default, and the one that is plain enough to be trusted.
VERIFIED_KERNELS: tuple[Kernel, ...] = ("optimized", "reference")
#: Bytes of values that are looked at together.
CHUNK_BYTES = 64 * 2**20

_BINARIZE = torch.ops.binmat.binarize.default
_BINARY_CONV = torch.ops.binmat.binary_conv2d.default
_TINY = float(np.finfo(np.float32).tiny)


def verify_lce(
    lowered: GraphModule,
    model: LceModel,
    frames: Sequence[Mapping[str, Tensor]],
    kernels: Sequence[Kernel] = VERIFIED_KERNELS,
    content: bytes | None = None,
    threads: int = 1,
    checked_frames: int = 1,
    progress: Callable[[], None] | None = None,
) -> Verification:
    """Run the model in LCE's interpreter and compare it with the lowered graph.

    frames: the inputs of consecutive frames by name, NCHW float32. The first frame may leave states out, which then
    are zeros; later frames take the states each side has computed itself. kernels: the reference kernel cannot run
    every model, so it gets the portable form of the same graph. content: the file to judge; None means the model's
    own. checked_frames: how many frames, from the last one back, are compared node by node, with the
    states that LCE gave on the frames before; the others end to end only. progress: called after
    each frame of each kernel.
    Raises MissingExtraError without the interpreter, ExportError where inputs are missing.
    """
    shape = next(iter(frames[0].values())).shape
    result = Verification(int(shape[-2]), int(shape[-1]), [])
    for kernel in kernels:
        variant, shipped = model, model.content if content is None else content
        if kernel == "reference" and not model.portable:
            variant = export_lce(lowered, None, model.input_names, model.output_names, portable=True)
            shipped = variant.content
        run = _KernelRun(lowered, variant, shipped, kernel, threads)
        result.kernels.append(run.verify(frames, checked_frames, progress or (lambda: None)))
    return result


class _KernelRun:
    def __init__(self, lowered: GraphModule, model: LceModel, content: bytes, kernel: Kernel, threads: int) -> None:
        self.lowered = lowered
        self.model = model
        self.kernel = kernel
        self.threads = threads
        self.shipped = LceInterpreter(content, kernel, threads)
        self.nodes: list[Node] = list(lowered.graph.nodes)
        self.stored = {node: model.values[node.name] for node in self.nodes if node.name in model.values}

    def verify(
        self, frames: Sequence[Mapping[str, Tensor]], checked_frames: int, progress: Callable[[], None]
    ) -> KernelVerification:
        result = KernelVerification(self.kernel, self.model.portable, len(frames), min(checked_frames, len(frames)))
        torch_states: dict[str, Tensor] = {}
        lce_states: dict[str, Tensor] = {}
        for index, frame in enumerate(frames):
            torch_inputs = self._inputs(frame, torch_states, index)
            lce_inputs = self._inputs(frame, lce_states, index)
            outputs = self.shipped.run(lce_inputs)
            bits = self._check_nodes(lce_inputs, outputs, index >= len(frames) - checked_frames, result)
            run = _TorchRun(self.lowered, bits, index, result.flips)
            with torch.no_grad():
                expected = _leaves(run.run(*torch_inputs))
            for name, wanted, got in zip(self.model.output_names, expected, outputs, strict=True):
                difference = (wanted.double() - got.double()).abs()
                result.outputs.append(OutputDifference(name, index, float(difference.max()), float(difference.mean())))
            torch_states = dict(zip(self.model.output_names, expected, strict=True))
            lce_states = dict(zip(self.model.output_names, outputs, strict=True))
            progress()
        return result

    def _inputs(self, frame: Mapping[str, Tensor], states: Mapping[str, Tensor], index: int) -> list[Tensor]:
        placeholders = [node for node in self.nodes if node.op == "placeholder"]
        values = []
        for name, node in zip(self.model.input_names, placeholders, strict=True):
            is_state = name in self.model.output_names
            if is_state and index > 0:
                values.append(states[name])
            elif name in frame:
                values.append(frame[name])
            elif is_state:
                values.append(torch.zeros(tuple(node.meta["val"].shape)))
            else:
                raise ExportError(f"frame {index} has no input '{name}': it gives {', '.join(frame)}")
        return values

    def _check_nodes(
        self, inputs: list[Tensor], outputs: list[Tensor], checked: bool, result: KernelVerification
    ) -> dict[Node, Tensor]:
        """Compare the nodes of one frame; returns the bits of all binarizations that lie in the file."""
        bits: dict[Node, Tensor] = {}
        wanted = {node for node in self.stored if node.target == _BINARIZE}
        if checked:
            wanted |= {node for node in self.stored if node.op == "call_function"}
            wanted |= set(_output_nodes(self.lowered)) & set(self.stored)
        given = dict(zip((n for n in self.nodes if n.op == "placeholder"), inputs, strict=True))
        for chunk, values in self._values([node for node in self.nodes if node in wanted], given, checked):
            evaluator = _Evaluator(self.lowered, {**values, **given})
            for node in chunk:
                if node.target == _BINARIZE:
                    bits[node] = values[node] < 0
                if checked and node.op == "call_function":
                    result.nodes.append(_compare(node, values[node], evaluator))
            for node, output in zip(_output_nodes(self.lowered), outputs, strict=True):
                if node in chunk and checked and not torch.equal(values[node], output):
                    result.faithful = False
        return bits

    def _values(
        self, wanted: Sequence[Node], given: Mapping[Node, Tensor], with_operands: bool
    ) -> Iterator[tuple[list[Node], dict[Node, Tensor]]]:
        """The wanted nodes, as many at a time as fit into memory, with LCE's values of them and of their operands."""
        operands = {node: self._operands(node) if with_operands else [] for node in wanted}
        looks: dict[Look, list[Node]] = {}
        for node in wanted:
            look = tuple(dict.fromkeys(self.stored[each].tensor for each in (node, *operands[node])))
            looks.setdefault(look, []).append(node)
        stored_inputs = {
            self.stored[node].tensor: _stored_input(value) for node, value in given.items() if node in self.stored
        }
        for found, arrays in run_in_segments(self.model.builder, list(looks), stored_inputs, self._run, CHUNK_BYTES):
            chunk = [node for look in found for node in looks[look]]
            needed = dict.fromkeys(n for node in chunk for n in (node, *operands[node]) if n not in given)
            yield chunk, {node: self.stored[node].read(arrays[self.stored[node].tensor]) for node in needed}

    def _run(self, content: bytes, arrays: Sequence[Array]) -> Sequence[Array]:
        return LceInterpreter(content, self.kernel, self.threads).run_stored(arrays)

    def _operands(self, node: Node) -> list[Node]:
        """The nearest nodes with a tensor in the file that the node is computed from."""
        found: list[Node] = []
        for operand in node.all_input_nodes:
            if operand in self.stored:
                found.append(operand)
            else:
                found.extend(self._operands(operand))
        return found


def _stored_input(value: Tensor) -> Array:
    array = value.numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def _output_nodes(lowered: GraphModule) -> list[Node]:
    nodes: list[Node] = []
    torch.fx.node.map_arg(lowered.graph.output_node().args[0], lambda node: nodes.append(node))
    return nodes


def _leaves(result: Any) -> list[Tensor]:
    return list(torch.utils._pytree.tree_leaves(result))


class _Evaluator:
    """Evaluates single nodes in torch from known values; nodes without one are computed from their own operands."""

    def __init__(self, lowered: GraphModule, known: Mapping[Node, Tensor], exact: bool = False) -> None:
        """exact: in float64, with float64 values."""
        self.lowered = lowered
        self.interpreter = Interpreter(lowered)
        self.known = known
        self.exact = exact

    def operand(self, node: Node) -> Any:
        return self.known[node] if node in self.known else self.compute(node)

    def compute(self, node: Node) -> Any:
        """The node's value from its operands' known values."""
        if node.op == "get_attr":
            constant = self.interpreter.fetch_attr(str(node.target))
            return constant.double() if self.exact and constant.is_floating_point() else constant
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), self.operand)
        with torch.no_grad():
            return node.target(*args, **kwargs)  # type: ignore[operator]

    def in_float64(self, node: Node) -> Tensor:
        """The node's value computed in float64."""
        sources = {n: self.known[n] for n in self.sources(node)}
        exact = {n: value.double() if value.is_floating_point() else value for n, value in sources.items()}
        value: Tensor = _Evaluator(self.lowered, exact, exact=True).compute(node)
        return value

    def moved(self, node: Node, share: float) -> Any:
        """The node's value when the known values it is computed from move by up to `share` of themselves."""
        generator = torch.Generator().manual_seed(0)
        known = {
            operand: value * (1 + share * (2 * torch.rand(value.shape, generator=generator) - 1))
            for operand, value in self.known.items()
            if value.is_floating_point() and operand in self.sources(node)
        }
        return _Evaluator(self.lowered, {**self.known, **known}).compute(node)

    def sources(self, node: Node) -> set[Node]:
        """The nodes with a known value that the node is computed from."""
        found: set[Node] = set()
        for operand in node.all_input_nodes:
            found |= {operand} if operand in self.known else self.sources(operand)
        return found


class _TorchRun(Interpreter):
    """Runs the graph in torch and notes where its signs differ from LCE's."""

    def __init__(self, lowered: GraphModule, bits: Mapping[Node, Tensor], frame: int, flips: list[SignFlips]) -> None:
        super().__init__(lowered)
        self.bits = bits
        self.frame = frame
        self.flips = flips

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.bits:
            (x, threshold), _ = self.fetch_args_kwargs_from_env(n)
            flipped = (result < 0) != self.bits[n]
            count = int(flipped.sum())
            distance = 0.0
            if count:
                apart = _apart(x, threshold)
                distance = float(apart[flipped].abs().max() / apart.std(correction=0).clamp_min(_TINY))
            layer = str(n.meta.get("layer", ""))
            self.flips.append(SignFlips(n.name, layer, self.frame, count, result.numel(), distance))
        return result


def _apart(x: Tensor, threshold: Tensor) -> Tensor:
    return x - threshold.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))


def _compare(node: Node, actual: Tensor, evaluator: _Evaluator) -> NodeCheck:
    """LCE's value of a node against torch's, computed from LCE's values of the operands."""
    expected = evaluator.compute(node)
    kind: CheckKind
    if node.target == _BINARIZE:
        kind, worst, limit = "sign", _wrong_signs(node, expected, actual, evaluator), 0.0
    elif node.target == _BINARY_CONV:
        kind, worst, limit = "sum", _sum_error(node, expected, actual, evaluator), 1.0
    elif not expected.is_floating_point():
        kind, worst, limit = "exact", float((expected != actual).sum()), 0.0
    else:
        kind, worst, limit = "value", _value_error(node, expected, actual, evaluator), VALUE_LIMIT
    layer = str(node.meta.get("layer", ""))
    return NodeCheck(node.name, layer, str(node.target), kind, expected.numel(), worst, limit)


def _value_error(node: Node, expected: Tensor, actual: Tensor, evaluator: _Evaluator) -> float:
    """The largest difference relative to the range of the values, or to what moved operands would change."""
    difference = float((expected - actual).abs().max())
    span = float(expected.abs().max().clamp_min(_TINY))
    if not difference > VALUE_LIMIT * span:
        return difference / span
    # Torch's own float32 may be the less exact one: its pooling adds thousands of elements one by one.
    difference = float((evaluator.in_float64(node) - actual).abs().max())
    if not difference > VALUE_LIMIT * span:
        return difference / span
    moved = evaluator.moved(node, OPERAND_LIMIT)
    return difference / (span + float((expected - moved).abs().max()) / VALUE_LIMIT)


def _wrong_signs(node: Node, expected: Tensor, actual: Tensor, evaluator: _Evaluator) -> float:
    """Signs of denormals do not count: they are +1 here, and what the machine makes of them in LCE."""
    x, threshold = (evaluator.operand(operand) for operand in node.all_input_nodes)
    return float(((expected != actual) & ~(_apart(x, threshold).abs() < _TINY)).sum())


def _sum_error(node: Node, expected: Tensor, actual: Tensor, evaluator: _Evaluator) -> float:
    """The difference in units of what rounding of sum * multiplier + bias allows.

    The unit is far below the step of 2 |multiplier| from one integer sum to the next, so the sums are equal.
    """
    weight, multiplier, bias = (evaluator.operand(operand) for operand in node.args[1:4])  # type: ignore[arg-type]
    largest = weight[0].numel() * multiplier.abs() + bias.abs()
    unit = ROUNDINGS * float(np.finfo(np.float32).eps) * largest.clamp_min(_TINY)
    return float(((expected - actual).abs() / unit.view(-1, 1, 1)).max())
