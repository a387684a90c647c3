"""The network against its lowered graph, both in float64.

What a binary layer adds up is whole numbers, which float32 holds exactly up to 2^24. Those sums are taken in float32,
where torch's convolutions are several times as fast, and are float64 from there on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import _disable_current_modes

from binmat.model_defs.network import Example, Network
from binmat.nn.binary_layer import BinaryLayer, Product
from binmat.nn.incoherence import IncoherenceMask
from binmat.nn.masked_path import set_execution
from binmat.quantizers.sign import is_negative
from binmat.transforms.lowering.constants import constant
from binmat.transforms.lowering.lower import lower_recording
from binmat.transforms.lowering.lowered_graph import LoweredGraph
from binmat.transforms.lowering.one_float_type import OneFloatType
from binmat.transforms.lowering.recording import Recording, record
from binmat.transforms.program import Program
from binmat.transforms.trace import trace
from binmat.verification.clips import Frames
from binmat.verification.layer_check import furthest_layer
from binmat.verification.results import NetworkCheck
from binmat.verification.signs import BINARIZE, TINY, distance_from_threshold, furthest

#: What a float32 can be; float64's largest number is float32's in the graph that is shipped.
_LARGEST = torch.finfo(torch.float32).max
#: How many of a layer's distances from the threshold are kept for comparison.
_SAMPLE = 2**16
_BINARY_CONV = torch.ops.binmat.binary_conv2d.default
_ABOVE = torch.ops.aten.gt.Scalar


def check_network(network: nn.Module, example: Example, frames: Frames) -> NetworkCheck:
    """Run the network in evaluation mode and its lowered graph, both in float64, and compare on the last frame.

    See :meth:`ExactPair.check`.
    """
    recording = record(network, example)
    return ExactPair(recording, lower_recording(recording)).check(frames)


class ExactPair:
    """A network in evaluation mode and its lowered graph, for one check in float64.

    recording: what was lowered; the float64 graph is made of it too. lowered: the float32 graph that is shipped; its
    constants are compared with those in float64.
    """

    def __init__(self, recording: Recording, lowered: LoweredGraph) -> None:
        self.example = recording.example
        self.network = trace(copy.deepcopy(recording.network)).eval()
        # Sparse execution adds in another order, and its layers get gathered pixels.
        set_execution(self.network, "dense")
        self.lowered = lower_recording(recording, torch.float64).module
        self.constants = _furthest_constants(lowered.module, self.lowered)

    def check(self, frames: Frames) -> NetworkCheck:
        """Compare on the last frame.

        frames: the inputs of consecutive frames that are not states, by name, NCHW. States are zeros before the first
        frame. The last frame has the states that the network computed on the one before, so that what is done with
        states counts; any such states will do, so they are computed in the network's own precision. Each binary layer
        of the lowered graph goes on with the network's signs, and the mask of a sparse decoder with the network's
        region. The reason: where sums cancel to a rounding residue, the sign of the residue is arbitrary, and what
        follows from it would hide a real difference. Untrained weights give many such sums.
        """
        example, network = self.example, self.network
        inputs = {**example.inputs}
        with torch.no_grad():
            dtype = next((value.dtype for value in network.parameters()), torch.float32)
            for frame in frames[:-1]:
                outputs = _run(network, example, inputs | dict(frame), dtype)
                inputs |= {name: value for name, value in zip(example.outputs, outputs, strict=True) if name in inputs}
            inputs |= dict(frames[-1])
            network.double()
            _add_exactly(network)
            binarized = _record_binarized(network)
            # Where the network's code casts, it would round.
            with OneFloatType(torch.float64):
                expected = _run(network, example, inputs, torch.float64)
            run = _ForcedRun(self.lowered, binarized)
            program = network.programs[example.mode]
            assert isinstance(program, Program)
            layer = furthest_layer(network, program.graph, self.lowered)
            actual = run.run(*[_as(value, torch.float64) for value in inputs.values() if isinstance(value, Tensor)])
        pairs = list(zip(_tensors(actual), _tensors(expected), strict=True))
        differences = [_difference(got, want) for got, want in pairs]
        largest = torch.stack([difference.max() for difference in differences])
        spans = torch.stack([_span(want) for _, want in pairs]).clamp_min(TINY)
        return NetworkCheck(
            max_abs=float(largest.max()),
            mean_abs=float(torch.stack([difference.mean() for difference in differences]).mean()),
            worst=float((largest / spans).max()),
            signs=run.compared,
            flipped_signs=run.flipped / max(run.compared, 1),
            distance=run.distance,
            zeros=run.zeros,
            moved=run.moved,
            constants=self.constants,
            layer=layer.apart,
            layer_name=layer.name,
            layers=layer.compared,
        )


def _run(
    owner: Network, example: Example, inputs: Mapping[str, Tensor | float], dtype: torch.dtype
) -> tuple[Tensor, ...]:
    arguments = [_as(value, dtype) if isinstance(value, Tensor) else value for value in inputs.values()]
    result = owner.run(example.mode, *arguments)
    return tuple(result) if isinstance(result, (tuple, list)) else (result,)


def _as(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Floats in this type; integers and booleans as they are."""
    return value.to(dtype) if value.is_floating_point() else value


def _tensors(outputs: Sequence[Any]) -> list[Tensor]:
    return [output for output in outputs if isinstance(output, Tensor)]


def _difference(got: Tensor, want: Tensor) -> Tensor:
    """How far two outputs lie apart; for integers and booleans 1 where they are not equal."""
    if not want.numel():
        return torch.zeros(1, dtype=torch.float64)
    if want.is_floating_point():
        return (got.double() - want.double()).abs()
    return (got != want).double()


def _span(output: Tensor) -> Tensor:
    """What the differences of an output are relative to."""
    floats = output.is_floating_point() and output.numel()
    return output.double().abs().max() if floats else torch.ones((), dtype=torch.float64)


def _add_exactly(owner: nn.Module) -> None:
    """Let the binary layers take their sums of -1, 0 and 1 in float32."""
    for layer in owner.modules():
        if isinstance(layer, BinaryLayer):
            layer.product = partial(_exact_product, layer.product)  # type: ignore[method-assign]


def _exact_product(product: Product, values: Tensor, weight: Tensor, pad_value: float) -> Tensor:
    if _adds_exactly(weight) and _are_units(values) and _are_units(weight):
        with _disable_current_modes():  # OneFloatType keeps everything in float64.
            return product(values.float(), weight.float(), pad_value).double()
    return product(values, weight, pad_value)


def _adds_exactly(weight: Tensor) -> bool:
    """Whether float32 holds every sum of so many values of -1, 0 and 1. weight: [O, I, ...]."""
    return weight[0].numel() <= 2**24


def _are_units(x: Tensor) -> bool:
    """Whether all values are -1, 0 or 1."""
    return torch.equal(x, x.sign())


@dataclass(frozen=True)
class _Binarized:
    """What a layer binarized in one call.

    threshold: float64 [1] or [C]. negative: where its sign is -1. zero: where x - threshold is exactly 0. sample: of
    x - threshold, float64 [N], at most _SAMPLE of them.
    """

    threshold: Tensor
    negative: Tensor
    zero: Tensor
    sample: Tensor


def _sample(x: Tensor) -> Tensor:
    """Elements of x at equal distances, which is odd so that every channel has some."""
    return x.flatten()[:: x.numel() // _SAMPLE | 1].clone()


def _record_binarized(owner: nn.Module) -> dict[str, list[_Binarized]]:
    """Layer -> what it binarized, call by call; filled while the network runs.

    Of a sparse decoder's mask the input is the coarse alpha, and what counts is where it is not above 0.
    """
    found: dict[str, list[_Binarized]] = {}

    def record(name: str, layer: nn.Module, x: Tensor) -> None:
        threshold = torch.zeros(1, dtype=x.dtype)
        if isinstance(layer, BinaryLayer):
            threshold = layer.deployed().threshold
            x = x - layer.per_channel(threshold)
            negative = is_negative(x)
        else:
            negative = x <= 0
        found.setdefault(name, []).append(_Binarized(threshold, negative, x == 0, _sample(x)))

    for name, layer in owner.named_modules():
        if isinstance(layer, (BinaryLayer, IncoherenceMask)):
            layer.register_forward_pre_hook(lambda layer, inputs, name=name: record(name, layer, inputs[0]))
    return found


class _ForcedRun(fx.Interpreter):
    """The lowered graph with the network's signs; counts where its own differ.

    zeros: how many differ although both sides have an exact 0 there. moved: how far x - threshold lies from the
    network's, relative to its largest value in the layer.
    """

    def __init__(self, module: fx.GraphModule, binarized: Mapping[str, list[_Binarized]]) -> None:
        super().__init__(module)
        self.binarized = {name: list(calls) for name, calls in binarized.items()}
        self.flipped = 0
        self.compared = 0
        self.distance = 0.0
        self.zeros = 0
        self.moved = 0.0

    def run_node(self, n: fx.Node) -> Any:
        if n.target is _BINARY_CONV and _adds_exactly(self.fetch_args_kwargs_from_env(n)[0][1]):
            (bits, weight, multiplier, bias, *geometry), _ = self.fetch_args_kwargs_from_env(n)
            ones, zeros = torch.ones_like(multiplier), torch.zeros_like(bias)
            total = _BINARY_CONV(bits.float(), weight, ones, zeros, *geometry).double()
            return total.mul_(multiplier.view(-1, 1, 1)).add_(bias.view(-1, 1, 1))
        result = super().run_node(n)
        if n.target is BINARIZE:
            (x, threshold), _ = self.fetch_args_kwargs_from_env(n)
            if not torch.equal(threshold.flatten(), self.binarized[n.meta["layer"]][0].threshold.flatten()):
                self.moved = math.inf
            negative = self._forced(n, result < 0, distance_from_threshold(x, threshold))
            return torch.where(negative, -1.0, 1.0).to(result.dtype)
        if n.target is _ABOVE and n.meta.get("layer") in self.binarized:
            (alpha, level), _ = self.fetch_args_kwargs_from_env(n)
            return ~self._forced(n, ~result, alpha - level)
        return result

    def _forced(self, n: fx.Node, actual: Tensor, distance: Tensor) -> Tensor:
        """The network's signs in place of the graph's own. distance: of the graph's values from their threshold."""
        network = self.binarized[n.meta["layer"]].pop(0)
        negative = network.negative.reshape(actual.shape)
        flips = negative != actual
        self.compared += flips.numel()
        flipped = int(flips.sum())
        self.flipped += flipped
        if flipped:
            self.distance = max(self.distance, furthest(distance, flips))
            if n.target is BINARIZE:
                self.zeros += int((flips & (distance == 0) & network.zero.reshape(actual.shape)).sum())
        moved = (_sample(distance) - network.sample).abs().max() / network.sample.abs().max().clamp_min(TINY)
        self.moved = _larger(self.moved, float(moved))
        return negative


def _larger(a: float, b: float) -> float:
    """The larger number; NaN where one of them is."""
    return b if math.isnan(b) or b > a else a


def _in_words(module: fx.GraphModule) -> list[str]:
    """What each node computes of which others, without its precision and without names, which precision may change."""
    place = {node: f"%{index}" for index, node in enumerate(module.graph.nodes)}
    words = []
    for node in module.graph.nodes:
        target = "" if node.op == "get_attr" else str(node.target)
        operands = fx.node.map_aggregate((node.args, node.kwargs), lambda leaf: _in_word(leaf, place))
        words.append(f"{node.op} {target} {operands}".replace("torch.float64", "torch.float32"))
    return words


def _in_word(leaf: Any, place: Mapping[fx.Node, str]) -> Any:
    if isinstance(leaf, float) and math.isfinite(leaf):
        return max(-_LARGEST, min(leaf, _LARGEST))
    return place[leaf] if isinstance(leaf, fx.Node) else leaf


def _furthest_constants(lowered: fx.GraphModule, exact: fx.GraphModule) -> float:
    """How far the constants of a lowered graph lie from those of its twin in float64, relative to each one's largest.

    Infinite where the graphs differ, or integers.
    """
    if _in_words(lowered) != _in_words(exact):
        return math.inf
    furthest = 0.0
    for node, twin in zip(lowered.graph.nodes, exact.graph.nodes, strict=True):
        if node.op != "get_attr":
            continue
        one, other = constant(lowered, node), constant(exact, twin)
        if one.shape != other.shape or (not other.is_floating_point() and not torch.equal(one, other)):
            return math.inf
        if other.is_floating_point() and other.numel():
            other = torch.where(other.isfinite(), other.clamp(-_LARGEST, _LARGEST), other)
            # Masks hold infinities, which are equal on both sides.
            alike = (one == other) | (one.isnan() & other.isnan())
            largest = torch.where(other.isfinite(), other.abs(), 0.0).max().clamp_min(TINY)
            furthest = _larger(furthest, float(torch.where(alike, 0.0, (one.double() - other).abs()).max() / largest))
    return furthest
