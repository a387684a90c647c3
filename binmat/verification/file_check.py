"""The lowered graph against a model file, run in its own interpreter.

Two questions are kept apart. Does every operator compute what torch computes from the same inputs? Torch evaluates each
node on the values that the file itself gave its inputs. The rounding of one node then does not blur the check of the
next one, and a difference is a bug. How far do the outputs drift end to end, where rounding may flip a sign that lies
at its threshold? That is measured over consecutive frames with the states fed back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from binmat.backends.backend import Backend, Group, Model
from binmat.errors import ExportError
from binmat.transforms.lowering.lowered_graph import LoweredGraph
from binmat.verification.node_check import Evaluator, check_node, sources
from binmat.verification.results import FileRun, OutputDifference, SignFlips
from binmat.verification.signs import BINARIZE, distance_from_threshold, furthest


def check_file(
    backend: Backend,
    lowered: LoweredGraph,
    model: Model,
    frames: Sequence[Mapping[str, Tensor]],
    kernel: str = "",
    content: bytes | None = None,
    checked_frames: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> FileRun:
    """Run a model with one kernel and compare it with the lowered graph.

    model: what the backend wrote for this kernel. frames: the inputs of consecutive frames by name, NCHW float32.
    States that the first frame leaves out are zeros; on later frames each side goes on with the states it has computed
    itself. content: the file to judge; None means the model's own. checked_frames: how many of the last frames are
    compared node by node, with the states that the file computed on the frames before. The others are compared end to
    end only. progress: called after each frame. Raises MissingExtraError without the interpreter, ExportError where
    inputs are missing.
    """
    checked_frames = min(checked_frames, len(frames))
    result = FileRun(kernel, model.form, len(frames), checked_frames)
    run = _Run(lowered, model, kernel, result)
    runner = backend.runner(model.content if content is None else content, kernel)
    torch_states: dict[str, Tensor] = {}
    file_states: dict[str, Tensor] = {}
    for index, frame in enumerate(frames):
        torch_inputs = run.inputs(frame, torch_states, index)
        file_inputs = run.inputs(frame, file_states, index)
        outputs = runner.run(file_inputs)
        bits = run.check_nodes(file_inputs, outputs, checked=index >= len(frames) - checked_frames)
        with torch.no_grad():
            leaves = _TorchRun(lowered, bits, index, result.flips).run(*torch_inputs)
        expected = list(torch.utils._pytree.tree_leaves(leaves))
        for name, wanted, got in zip(lowered.outputs, expected, outputs, strict=True):
            difference = (wanted.double() - got.double()).abs()
            result.outputs.append(OutputDifference(name, index, float(difference.max()), float(difference.mean())))
        torch_states = dict(zip(lowered.outputs, expected, strict=True))
        file_states = dict(zip(lowered.outputs, outputs, strict=True))
        progress()
    return result


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

    def inputs(self, frame: Mapping[str, Tensor], states: Mapping[str, Tensor], index: int) -> list[Tensor]:
        values = []
        for name, node in zip(self.lowered.inputs, self.placeholders, strict=True):
            is_state = name in self.lowered.outputs
            if is_state and index > 0:
                values.append(states[name])
            elif name in frame:
                values.append(frame[name])
            elif is_state:
                values.append(torch.zeros(tuple(node.meta["val"].shape)))
            else:
                raise ExportError(f"frame {index} has no input '{name}': it gives {', '.join(frame)}")
        return values

    def check_nodes(self, inputs: list[Tensor], outputs: list[Tensor], *, checked: bool) -> dict[Node, Tensor]:
        """Compare the nodes of one frame; returns where the binarizations that lie in the file gave -1."""
        given = dict(zip(self.placeholders, inputs, strict=True))
        stored = {node for node in self.nodes.values() if node.name in self.model.stored}
        groups: dict[Group, Node] = {}
        for node in self.nodes.values():
            if node not in stored or node.op != "call_function" or not (checked or node.target is BINARIZE):
                continue
            operands = sources(node, stored) if checked else []
            groups[tuple(dict.fromkeys(n.name for n in (node, *operands) if n not in given))] = node
        bits: dict[Node, Tensor] = {}
        for ready, found in self.model.values(list(groups), inputs, self.kernel):
            values = {self.nodes[name]: value for name, value in found.items()}
            evaluator = Evaluator(self.lowered.module, {**values, **given})
            nodes = [groups[group] for group in ready]
            for node in nodes:
                if node.target is BINARIZE:
                    bits[node] = values[node] < 0
                if checked:
                    self.result.nodes.append(check_node(node, values[node], evaluator))
            for node, output in zip(self.output_nodes, outputs, strict=True):
                if checked and node in nodes and not torch.equal(values[node], output):
                    self.result.faithful = False
        if checked:
            self._check_passed_on(outputs, stored, Evaluator(self.lowered.module, given))
        return bits

    def _check_passed_on(self, outputs: list[Tensor], stored: set[Node], evaluator: Evaluator) -> None:
        """Outputs that no operator of the file computes: inputs that are handed on, and constants."""
        for node, output in zip(self.output_nodes, outputs, strict=True):
            computed = node.op == "call_function" and node in stored
            if not computed and not torch.equal(evaluator.operand(node), output):
                self.result.faithful = False


class _TorchRun(Interpreter):
    """Runs the graph in torch and notes where its signs differ from the file's."""

    def __init__(self, lowered: LoweredGraph, bits: Mapping[Node, Tensor], frame: int, flips: list[SignFlips]) -> None:
        super().__init__(lowered.module)
        self.bits = bits
        self.frame = frame
        self.flips = flips

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n in self.bits:
            (x, threshold), _ = self.fetch_args_kwargs_from_env(n)
            flipped = (result < 0) != self.bits[n]
            distance = furthest(distance_from_threshold(x, threshold), flipped)
            layer, count = str(n.meta.get("layer", "")), int(flipped.sum())
            self.flips.append(SignFlips(n.name, layer, self.frame, count, result.numel(), distance))
        return result
