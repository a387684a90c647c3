"""The lowered graph against a model file, run in its own interpreter.

Two questions are kept apart. Does every operator compute what torch computes from the same inputs? Torch evaluates each
node on the values that the file itself gave its inputs. The rounding of one node then does not blur the check of the
next one, and a difference is a bug. How far do the outputs drift end to end, where rounding may flip a sign that lies
at its threshold? That is measured over consecutive frames with the states fed back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
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
from binmat.verification.node_check import Evaluator, check_node, is_constant, sources
from binmat.verification.results import FileRun, NodeCheck, OutputDifference, SignFlips
from binmat.verification.signs import BINARIZE, count_near, distance_from_threshold, furthest
from binmat.verification.wide_values import wide_values

#: A whole model takes the most memory of all that is done here, so models that run side by side take turns.
_WHOLE_MODEL = Lock()


@dataclass
class RecordedRun:
    """What a file computed on a clip, for the comparison end to end.

    result: what was found so far, without the end-to-end differences. outputs: of each frame, in the graph's order.
    negative: of each frame, binarization -> one bit per sign, set where it is -1, in the order of torch's layout.
    """

    result: FileRun
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
    compare_end_to_end(lowered, frames, [recorded])
    return recorded.result


def run_file(
    backend: Backend,
    lowered: LoweredGraph,
    model: Model,
    frames: Frames,
    kernel: str = "",
    checked_frames: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> RecordedRun:
    """Run a model with one kernel and compare it operator by operator with the lowered graph.

    model: what the backend wrote for this kernel. frames: the inputs of consecutive frames by name, NCHW float32.
    States that the first frame leaves out are zeros; on later frames the file goes on with the states it has computed.
    checked_frames: how many of the last frames are compared node by node, with the states that the file computed on the
    frames before. progress: called after each frame. Raises MissingExtraError without the interpreter,
    ExportError where inputs are missing.
    """
    checked_frames = min(checked_frames, len(frames))
    recorded = RecordedRun(FileRun(kernel, model.form, len(frames), checked_frames))
    run = _Run(lowered, model, kernel, recorded.result)
    runner = backend.runner(model.content, kernel)
    states: dict[str, Tensor] = {}
    for index, frame in enumerate(frames):
        inputs = _inputs(lowered, frame, states, index)
        with _WHOLE_MODEL:
            outputs = runner.run(inputs)
        recorded.outputs.append(outputs)
        checked = index >= len(frames) - checked_frames
        recorded.negative.append(run.check_nodes(inputs, outputs, checked=checked))
        states = dict(zip(lowered.outputs, outputs, strict=True))
        progress()
    return recorded


def check_alone(
    lowered: LoweredGraph, model: Model, kernel: str, progress: Callable[[], None] = lambda: None
) -> list[NodeCheck]:
    """Run every stored node by itself on wide values, and compare it with torch.

    What a picture never reaches shows here: the bound of an activation, a zero, a weight of a channel that is silent.
    Nodes that read integers are left out, which may be indices, and those that give integers: what becomes of values
    beyond an integer type's range, and which of equal ones is the largest, is up to a backend. progress: called at the
    end.
    """
    stored = {node for node in lowered.module.graph.nodes if node.name in model.stored}
    nodes = {node.name: node for node in stored}
    groups = {
        node.name: (node.name, *(operand.name for operand in sources(node, stored)))
        for node in lowered.module.graph.nodes
        if node in stored and node.op == "call_function"
    }
    tried = [
        group
        for group in groups.values()
        if group[1:] and all(_is_float_or_bool(nodes[name].meta["val"]) for name in group)
    ]
    checks = []
    for group, values in model.alone(tried, lambda name: wide_values(lowered.module, nodes[name]), kernel):
        evaluator = Evaluator(lowered.module, {nodes[name]: values[name] for name in group[1:]})
        checks.append(check_node(nodes[group[0]], values[group[0]], evaluator, wide=True))
    progress()
    return checks


def _is_float_or_bool(value: Tensor) -> bool:
    return value.is_floating_point() or value.dtype == torch.bool


def compare_end_to_end(lowered: LoweredGraph, frames: Frames, runs: Sequence[RecordedRun]) -> None:
    """Enter into each run's result how far its outputs and signs lie from torch's, each side with its own states.

    Torch runs the graph once on the clip, whatever the number of runs.
    """
    states: dict[str, Tensor] = {}
    for index, frame in enumerate(frames):
        with torch.no_grad():
            leaves = _TorchRun(lowered, index, runs).run(*_inputs(lowered, frame, states, index))
        expected = list(torch.utils._pytree.tree_leaves(leaves))
        for run in runs:
            for name, wanted, got in zip(lowered.outputs, expected, run.outputs[index], strict=True):
                difference = (wanted.double() - got.double()).abs() if wanted.numel() else torch.zeros(1)
                run.result.outputs.append(
                    OutputDifference(
                        name, index, float(difference.max()), float(difference.mean()), is_constant(wanted)
                    )
                )
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
    """One model, run with one kernel."""

    def __init__(self, lowered: LoweredGraph, model: Model, kernel: str, result: FileRun) -> None:
        self.lowered = lowered
        self.model = model
        self.kernel = kernel
        self.result = result
        self.nodes: dict[str, Node] = {node.name: node for node in lowered.module.graph.nodes}
        self.placeholders = [node for node in self.nodes.values() if node.op == "placeholder"]
        self.output_nodes: list[Node] = []
        torch.fx.node.map_arg(lowered.module.graph.output_node().args[0], self.output_nodes.append)

    def check_nodes(
        self, inputs: list[Tensor], outputs: list[Tensor], *, checked: bool
    ) -> dict[Node, npt.NDArray[np.uint8]]:
        """Compare the nodes of one frame; returns where the binarizations that lie in the file gave -1."""
        given = dict(zip(self.placeholders, inputs, strict=True))
        stored = {node for node in self.nodes.values() if node.name in self.model.stored}
        groups: dict[Group, Node] = {}
        for node in self.nodes.values():
            if node not in stored or node.op != "call_function" or not (checked or node.target is BINARIZE):
                continue
            operands = sources(node, stored) if checked else []
            groups[tuple(dict.fromkeys(n.name for n in (node, *operands) if n not in given))] = node
        negative: dict[Node, npt.NDArray[np.uint8]] = {}
        for ready, found in self.model.values(list(groups), inputs, self.kernel):
            values = {self.nodes[name]: value for name, value in found.items()}
            evaluator = Evaluator(self.lowered.module, {**values, **given})
            nodes = [groups[group] for group in ready]
            for node in nodes:
                if node.target is BINARIZE:
                    negative[node] = np.packbits((values[node] < 0).contiguous().numpy())
                if checked:
                    self.result.nodes.append(check_node(node, values[node], evaluator))
            for node, output in zip(self.output_nodes, outputs, strict=True):
                if checked and node in nodes and not torch.equal(values[node], output):
                    self.result.faithful = False
            del found, values, evaluator  # The next values need the memory.
        if checked:
            self._check_passed_on(outputs, stored, Evaluator(self.lowered.module, given))
        return negative

    def _check_passed_on(self, outputs: list[Tensor], stored: set[Node], evaluator: Evaluator) -> None:
        """Outputs that no operator of the file computes: inputs that are handed on, and constants."""
        for node, output in zip(self.output_nodes, outputs, strict=True):
            computed = node.op == "call_function" and node in stored
            if not computed and not torch.equal(evaluator.operand(node), output):
                self.result.faithful = False


class _TorchRun(Interpreter):
    """Runs the graph in torch and notes where its signs differ from the files'."""

    def __init__(self, lowered: LoweredGraph, frame: int, runs: Sequence[RecordedRun]) -> None:
        super().__init__(lowered.module)
        self.frame = frame
        self.runs = runs

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.target is BINARIZE:
            for run in self.runs:
                if n in run.negative[self.frame]:
                    run.result.flips.append(self._flips(n, result, run.negative[self.frame][n]))
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
