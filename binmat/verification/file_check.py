"""The lowered graph against a model file, run in its own interpreter.

Two questions are kept apart. Does every operator compute what torch computes from the same inputs? Torch evaluates each
node on the values that the file itself gave its inputs. The rounding of one node then does not blur the check of the
next one, and a difference is a bug. How far do the outputs drift end to end, where rounding may flip a sign that lies
at its threshold? That is measured over consecutive frames with the states fed back.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from binmat.backends.backend import Backend, Group, Model
from binmat.errors import ExportError
from binmat.transforms.lowering.lowered_graph import LoweredGraph
from binmat.verification.clips import Frames
from binmat.verification.node_check import BINARY_CONV, Evaluator, check_node, is_constant, sources
from binmat.verification.results import FileRun, NodeCheck, OutputDifference, SignFlips
from binmat.verification.signs import BINARIZE, count_near, distance_from_threshold, furthest
from binmat.verification.wide_values import wide_values

#: A whole model takes the most memory of all that is done here, so models that run side by side take turns.
_WHOLE_MODEL = Lock()


@dataclass
class RecordedRun:
    """What a file computed on a clip, for the comparison end to end.

    result: what was found so far, without the end-to-end differences. others: what other kernels' binary operators
    computed from the same operands, by kernel. outputs: of each frame, in the graph's order. negative: of each frame,
    binarization -> one bit per sign, set where it is -1, in the order of torch's layout.
    """

    result: FileRun
    others: dict[str, FileRun] = field(default_factory=dict)
    outputs: list[list[Tensor]] = field(default_factory=list)
    negative: list[dict[Node, npt.NDArray[np.uint8]]] = field(default_factory=list)

    def forget_values(self) -> None:
        """Keep the result alone."""
        self.outputs.clear()
        self.negative.clear()


def check_file(
    backend: Backend,
    lowered: LoweredGraph,
    model: Model,
    frames: Frames,
    kernel: str = "",
    checked_frames: int = 1,
) -> FileRun:
    """Run a model with one kernel and compare it with the lowered graph: :func:`run_file`, then end to end."""
    recorded = run_file(backend, lowered, model, frames, kernel, checked_frames)
    compare_end_to_end(lowered, frames, recorded)
    return recorded.result


def run_file(
    backend: Backend,
    lowered: LoweredGraph,
    model: Model,
    frames: Frames,
    kernel: str = "",
    checked_frames: int = 1,
    others: Mapping[str, Model] = MappingProxyType({}),
    progress: Callable[[], None] = lambda: None,
) -> RecordedRun:
    """Run a model with one kernel and compare it operator by operator with the lowered graph.

    model: what the backend wrote for this kernel. frames: the inputs of consecutive frames by name, NCHW float32.
    States that the first frame leaves out are zeros; on later frames the file goes on with the states it has computed.
    checked_frames: how many of the last frames are compared node by node, with the states that the file computed on the
    frames before; there the whole file's outputs must be those of its nodes. others: kernel -> what the backend wrote
    for it; on the same frames each of its binary operators is run on the operands that this model has computed.
    progress: called after each frame. Raises MissingExtraError without the interpreter, ExportError where inputs are
    missing.
    """
    checked_frames = min(checked_frames, len(frames))
    recorded = RecordedRun(FileRun(kernel, model.form, len(frames), checked_frames))
    if any(node.target is BINARY_CONV for node in lowered.module.graph.nodes):
        recorded.others = {name: FileRun(name, other.form, 0, checked_frames) for name, other in others.items()}
    run = _Run(lowered, model, kernel, recorded, others)
    runner = backend.runner(model.content, kernel)
    states: dict[str, Tensor] = {}
    for index, frame in enumerate(frames):
        inputs = _inputs(lowered, frame, states, index)
        whole = None
        if index >= len(frames) - checked_frames:
            with _WHOLE_MODEL:
                whole = runner.run(inputs)
        outputs, negative = run.frame(inputs, whole)
        recorded.outputs.append(outputs)
        recorded.negative.append(negative)
        states = dict(zip(lowered.outputs, outputs, strict=True))
        progress()
    return recorded


def groups_alone(lowered: LoweredGraph, model: Model) -> list[Group]:
    """What :func:`check_alone` can run: stored nodes, each with the stored nodes that it is computed from.

    Nodes that read integers are left out, which may be indices, and those that give integers: what becomes of values
    beyond an integer type's range, and which of equal ones is the largest, is up to a backend.
    """
    stored = {node for node in lowered.module.graph.nodes if node.name in model.stored}
    groups = []
    for node in lowered.module.graph.nodes:
        if node in stored and node.op == "call_function":
            operands = sources(node, stored)
            if operands and all(_is_float_or_bool(one.meta["val"]) for one in (node, *operands)):
                groups.append((node.name, *(operand.name for operand in operands)))
    return groups


def check_alone(
    lowered: LoweredGraph,
    model: Model,
    groups: Sequence[Group],
    kernel: str,
    progress: Callable[[], None] = lambda: None,
) -> list[NodeCheck]:
    """Run stored nodes by themselves on wide values, and compare them with torch.

    What a picture never reaches shows here: the bound of an activation, a zero, a weight of a channel that is silent.
    groups: of :func:`groups_alone`. progress: called at the end.
    """
    nodes = {node.name: node for node in lowered.module.graph.nodes}
    checks = []
    for group, values in model.alone(groups, lambda name: wide_values(lowered.module, nodes[name]), kernel):
        evaluator = Evaluator(lowered.module, {nodes[name]: values[name] for name in group[1:]})
        checks.append(check_node(nodes[group[0]], values[group[0]], evaluator, wide=True))
    progress()
    return checks


def _is_float_or_bool(value: Tensor) -> bool:
    return value.is_floating_point() or value.dtype == torch.bool


def compare_end_to_end(lowered: LoweredGraph, frames: Frames, recorded: RecordedRun) -> None:
    """Enter into the result how far outputs and signs lie from torch's, each side with its own states."""
    states: dict[str, Tensor] = {}
    for index, frame in enumerate(frames):
        with torch.no_grad():
            leaves = _TorchRun(lowered, index, recorded).run(*_inputs(lowered, frame, states, index))
        expected = list(torch.utils._pytree.tree_leaves(leaves))
        for name, wanted, got in zip(lowered.outputs, expected, recorded.outputs[index], strict=True):
            difference = (wanted.double() - got.double()).abs() if wanted.numel() else torch.zeros(1)
            found = float(difference.max()), float(difference.mean()), is_constant(wanted)
            recorded.result.outputs.append(OutputDifference(name, index, *found))
        states = dict(zip(lowered.outputs, expected, strict=True))


def _inputs(
    lowered: LoweredGraph, frame: Mapping[str, Tensor], states: Mapping[str, Tensor], index: int
) -> list[Tensor]:
    values = []
    placeholders = (node for node in lowered.module.graph.nodes if node.op == "placeholder")
    for name, node in zip(lowered.inputs, placeholders, strict=True):
        is_state = name in lowered.outputs
        if is_state and index > 0:
            values.append(states[name])
        elif name in frame:
            # The graph's floats have one type, whatever the network's are.
            floating = frame[name].is_floating_point()
            values.append(frame[name].to(node.meta["val"].dtype) if floating else frame[name])
        elif is_state:
            values.append(torch.zeros(tuple(node.meta["val"].shape), dtype=node.meta["val"].dtype))
        else:
            raise ExportError(f"frame {index} has no input '{name}': it gives {', '.join(frame)}")
    return values


class _Run:
    """One model, run with one kernel, and the binary operators of other kernels beside it."""

    def __init__(
        self, lowered: LoweredGraph, model: Model, kernel: str, recorded: RecordedRun, others: Mapping[str, Model]
    ) -> None:
        self.lowered = lowered
        self.model = model
        self.kernel = kernel
        self.result = recorded.result
        self.nodes: dict[str, Node] = {node.name: node for node in lowered.module.graph.nodes}
        self.placeholders = [node for node in self.nodes.values() if node.op == "placeholder"]
        self.output_nodes: list[Node] = []
        torch.fx.node.map_arg(lowered.module.graph.output_node().args[0], self.output_nodes.append)
        self.stored = {node for node in self.nodes.values() if node.name in model.stored}
        self.others = [_OtherKernel(lowered, others[name], result) for name, result in recorded.others.items()]

    def frame(
        self, inputs: list[Tensor], whole: list[Tensor] | None
    ) -> tuple[list[Tensor], dict[Node, npt.NDArray[np.uint8]]]:
        """Run one frame, operator by operator; its outputs, and where the binarizations that lie in the file gave -1.

        whole: the outputs of the file run as a whole, for a frame whose nodes are compared.
        """
        given = dict(zip(self.placeholders, inputs, strict=True))
        groups: dict[Group, Node] = {}
        beside: dict[Group, list[tuple[_OtherKernel, Group]]] = {}
        for node in self.nodes.values():
            if node in self.stored and node.op == "call_function":
                if whole is not None:
                    groups[_names([node, *sources(node, self.stored)], given)] = node
                elif node.target is BINARIZE or node in self.output_nodes:
                    groups[(node.name,)] = node
        for other in self.others if whole is not None else ():
            for group in other.groups:
                operands = [self.nodes[name] for name in group[1:]]
                known = [n for operand in operands for n in self._known(operand)]
                beside.setdefault(_names(known, given), []).append((other, group))
        outputs: dict[Node, Tensor] = {}
        negative: dict[Node, npt.NDArray[np.uint8]] = {}
        for ready, found in self.model.values([*dict.fromkeys([*groups, *beside])], inputs, self.kernel):
            values = {self.nodes[name]: value for name, value in found.items()}
            evaluator = Evaluator(self.lowered.module, {**values, **given})
            for node in (groups[group] for group in ready if group in groups):
                if node.target is BINARIZE:
                    negative[node] = np.packbits((values[node] < 0).contiguous().numpy())
                if node in self.output_nodes:
                    outputs[node] = values[node]
                if whole is not None:
                    self.result.nodes.append(check_node(node, values[node], evaluator))
            for other in self.others:
                other.check([job for group in ready for one, job in beside.get(group, ()) if one is other], evaluator)
            del found, values, evaluator  # The next values need the memory.
        # No operator of the file computes inputs that are handed on, and constants.
        passed_on = Evaluator(self.lowered.module, given)
        computed = [outputs[node] if node in outputs else passed_on.operand(node) for node in self.output_nodes]
        if whole is None:
            return computed, negative
        self.result.faithful &= all(map(torch.equal, computed, whole))
        return whole, negative

    def _known(self, node: Node) -> list[Node]:
        """The stored nodes that the node's value is computed from: itself where it is one."""
        return [node] if node in self.stored else [*sources(node, self.stored)]


def _names(nodes: Iterable[Node], given: Container[Node]) -> Group:
    """Names of nodes, each once, without those whose values are given."""
    return tuple(dict.fromkeys(node.name for node in nodes if node not in given))


class _OtherKernel:
    """The binary operators of a model by another kernel, each by itself, on operands of the model that ships.

    groups: a stored node that a binary convolution goes into, and the stored nodes that it is computed from.
    """

    def __init__(self, lowered: LoweredGraph, model: Model, result: FileRun) -> None:
        self.lowered, self.model, self.result = lowered, model, result
        self.nodes: dict[str, Node] = {node.name: node for node in lowered.module.graph.nodes}
        stored = {node for node in self.nodes.values() if node.name in model.stored}
        self.groups: list[Group] = [
            (node.name, *(operand.name for operand in sources(node, stored)))
            for node in self.nodes.values()
            if node in stored and _is_binary(node, stored)
        ]

    def check(self, groups: Sequence[Group], evaluator: Evaluator) -> None:
        """Run these groups. evaluator: knows what their operands are computed from."""
        operands = {name: evaluator.operand(self.nodes[name]) for group in groups for name in group[1:]}
        for group, values in self.model.alone(groups, operands.__getitem__, self.result.kernel):
            known = Evaluator(self.lowered.module, {self.nodes[name]: values[name] for name in group[1:]})
            self.result.nodes.append(check_node(self.nodes[group[0]], values[group[0]], known))


def _is_binary(node: Node, stored: Container[Node]) -> bool:
    """Whether a binary convolution is among what is computed between the stored nodes before this one and this one."""
    between = (operand for operand in node.all_input_nodes if operand not in stored)
    return node.target is BINARY_CONV or any(_is_binary(operand, stored) for operand in between)


class _TorchRun(Interpreter):
    """Runs the graph in torch and notes where its signs differ from the file's."""

    def __init__(self, lowered: LoweredGraph, frame: int, recorded: RecordedRun) -> None:
        super().__init__(lowered.module)
        self.recorded = recorded
        self.frame = frame

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.target is BINARIZE and n in self.recorded.negative[self.frame]:
            self.recorded.result.flips.append(self._flips(n, result, self.recorded.negative[self.frame][n]))
        return result

    def _flips(self, n: Node, result: Tensor, packed: npt.NDArray[np.uint8]) -> SignFlips:
        bits = np.unpackbits(packed, count=result.numel()).view(np.bool_)
        flipped = (result < 0) != torch.from_numpy(bits).view(result.shape)
        count = int(flipped.sum())
        (x, threshold), _ = self.fetch_args_kwargs_from_env(n)
        layer = str(n.meta.get("layer", ""))
        if not count:
            return SignFlips(n.name, layer, self.frame, 0, result.numel(), 0.0)
        distance = distance_from_threshold(x, threshold)
        furthest_flip, near = furthest(distance, flipped), count_near(distance)
        return SignFlips(n.name, layer, self.frame, count, result.numel(), furthest_flip, near)
