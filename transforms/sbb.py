"""Replace a network's encoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from binmat.errors import PolicyError
from binmat.model_defs.insertion_points import EncoderInsertionPoint
from binmat.model_defs.network import Example, Network
from binmat.nn.sbb import BlockShortcut, SBBEncoder, SBBPlan, SBBRow

from .channel_adapters import adapted
from .graph_pass import GraphPass
from .part_calls import hand_over, outputs_held
from .patterns import called_module
from .shapes import ShapeInterpreter, probe_inputs, run_graphs
from .subgraph import add_module, inputs_of, nodes_inside, outputs_of, part_called, splice
from .swap import remove, swap
from .trace import graphs, recompile
from .tracer import trace_method


@dataclass(eq=False)
class ReplaceEncoder(GraphPass[Network]):
    """Replaces a submodule by another encoder, in the graph of every mode.

    encoder: takes what the old one takes and returns its features in the same order, at the same sizes; any module that
    torch.fx can trace, such as :class:`binmat.nn.sbb.SBBEncoder`. Only the features that the network reads count.
    name: the submodule's; it stays. parts: where the encoder is several submodules instead, their names; they go, and
    ``name`` is where the new one is put. example: the example inputs, for modules that cannot tell theirs.

    Convolutions, linear layers and batch norms that read features whose channels changed are made anew, with fresh
    weights; ``notes`` names them. In a network that names its float layers, the new encoder's first convolution takes
    the old one's place among them.

    Raises PolicyError where there is no such submodule, where a part is named twice, where a mode runs only some of the
    parts, where they take more than one tensor, where features differ in number or size, and where a layer cannot take
    the new channels; LoweringError where the network cannot say what its example inputs are. The network may then be
    half rewritten: apply the pass to a copy, as :func:`binmat.transforms.convert.convert` does.

    >>> from torch.nn import Conv2d, Sequential
    >>> from binmat.transforms.trace import trace
    >>> network = trace(Sequential(Conv2d(3, 8, 3, 2, 1), Conv2d(8, 1, 1)))
    >>> replace = ReplaceEncoder(Sequential(Conv2d(3, 12, 5, 2, 2)), "0")
    >>> replace.apply(network).get_submodule("1")
    Conv2d(12, 1, kernel_size=(1, 1), stride=(1, 1))
    >>> replace.notes
    {'1': 'made anew, with fresh weights: reads 12 channels instead of 8'}
    """

    encoder: nn.Module
    name: str = "backbone"
    example: Example | None = None
    parts: Sequence[str] = ()

    def apply(self, network: Network) -> Network:
        replaced = self.parts or (self.name,)
        twice = [name for name in replaced if list(replaced).count(name) > 1 or _is_inside(name, replaced)]
        if twice:
            raise PolicyError(f"'{twice[0]}' is named twice, or inside another part: name each of them once")
        old = [part_called(network, part) for part in replaced]
        like = next((parameter for part in old for parameter in part.parameters()), None)
        if like is not None:
            self.encoder.to(like.device, like.dtype)
        self.encoder.train(old[0].training)
        inputs = probe_inputs(network, self.example)
        # The rest of the network counts on the old features' sizes.
        before = {
            mode: [run.shape(node) for node in outputs_of(nodes_inside(run.graph, *replaced))]
            for mode, run in run_graphs(network, inputs)
        }
        part = trace_method(self.encoder)
        for mode, graph in graphs(network).items():
            run_here = [name for name in replaced if nodes_inside(graph, name)]
            if 0 < len(run_here) < len(replaced):
                raise PolicyError(
                    f"mode {mode} of {network.name} runs only {', '.join(run_here)} of the encoder's parts: replace "
                    "that of a network whose every mode runs all of it or none, such as one path of pam, path=1111"
                )
        after = {mode: self._replace(graph, part, replaced) for mode, graph in graphs(network).items()}
        if not any(after.values()):
            raise PolicyError(
                f"no mode of {network.name} runs '{', '.join(replaced)}': name the encoder that its graphs call"
            )
        if self.parts:
            for name in self.parts:
                remove(network, name)
            add_module(network, self.name, self.encoder)
        else:
            swap(network, {self.name: self.encoder})
        self._move_float_layers(network)
        for mode, run in run_graphs(network, inputs, _Adapting):
            assert isinstance(run, _Adapting)
            self._check_sizes(before[mode], [run.shape(node) for node in after[mode]])
            for name, layer in run.fresh.items():
                layer.train(network.get_submodule(name).training)
            swap(network, run.fresh)
            self.notes |= run.notes
        recompile(network)
        return network

    def _replace(self, graph: fx.Graph, part: fx.Graph, replaced: Sequence[str]) -> tuple[fx.Node, ...]:
        """Replace the encoder's nodes in one graph; the new features in the order of the old ones."""
        inside = nodes_inside(graph, *replaced)
        if not inside:
            return ()
        sources = inputs_of(inside)
        wanted = [str(node.target) for node in part.nodes if node.op == "placeholder"]
        if len(sources) != 1 or len(wanted) != 1:
            raise PolicyError(
                f"'{self.name}' reads {', '.join(node.name for node in sources)} and the new encoder takes "
                f"{', '.join(wanted)}: an encoder reads one tensor"
            )
        features = outputs_of(inside)
        with graph.inserting_before(inside[0]):
            new = splice(graph, part, {wanted[0]: sources[0]}, self.name)
        if len(new) != len(features):
            raise PolicyError(
                f"the network reads {len(features)} features of '{self.name}' and the new encoder gives {len(new)}: "
                "return exactly the features that are read"
            )
        for feature, replacement in zip(features, new, strict=True):
            feature.replace_all_uses_with(replacement)
            held = [output.part for output in outputs_held(feature)]
            gone = [name for name in held if name in self.parts or _is_inside(name, replaced)]
            hand_over(feature, replacement, besides=gone)
        for node in reversed(inside):
            graph.erase_node(node)
        return new

    def _check_sizes(self, before: Sequence[tuple[int, ...]], after: Sequence[tuple[int, ...]]) -> None:
        for number, (old, new) in enumerate(zip(before, after, strict=True), 1):
            if old[2:] != new[2:]:
                raise PolicyError(
                    f"feature {number} of the new '{self.name}' has size {new[2]}x{new[3]} where the old one has "
                    f"{old[2]}x{old[3]}: give the plan the same strides"
                )

    def _move_float_layers(self, network: Network) -> None:
        if not network.float_layers:
            return
        replaced = self.parts or (self.name,)
        kept = {k: v for k, v in network.float_layers.items() if not _is_inside(k, replaced)}
        first = next((n for n, m in self.encoder.named_modules() if isinstance(m, nn.Conv2d)), None)
        reason = next((why for name, why in network.float_layers.items() if name not in kept), None)
        if first is not None and reason is not None:
            kept[f"{self.name}.{first}"] = reason
        network.float_layers = kept


class _Adapting(ShapeInterpreter):
    """Makes layers anew whose input no longer has the channels that they were made for."""

    def __init__(self, shadow: Network, graph: fx.Graph) -> None:
        super().__init__(shadow, graph)
        self.fresh: dict[str, nn.Module] = {}
        self.notes: dict[str, str] = {}

    def run_node(self, n: fx.Node) -> Any:
        layer = called_module(n, self.shadow)
        source = self.env[n.args[0]] if n.args and isinstance(n.args[0], fx.Node) else None
        made = adapted(layer, source) if layer is not None and isinstance(source, Tensor) else None
        if made is not None:
            name = str(n.target)
            self.fresh[name], change = made
            self.notes[name] = f"made anew, with fresh weights: {change}"
            swap(self.shadow, {name: copy.deepcopy(made[0]).eval()})
        return super().run_node(n)


def sbb_encoder(
    network: Network,
    shortcut: BlockShortcut = "official",
    point: EncoderInsertionPoint | None = None,
    plan: SBBPlan | None = None,
) -> ReplaceEncoder:
    """The pass that gives a traced network BiMatting's encoder.

    point: where, by default the network's own insertion point. plan: the encoder's; whether it normalises and what it
    reads follow from the network. The default is Table 4's for features at 1/2, 1/4, 1/8 and 1/16, or fewer of them, at
    the strides of the network's own features. Where the last one is at 1/32, the last block is strided, which the
    paper's is not. Where it is at 1/8, the last two blocks are dilated instead of strided. The last feature has the
    channels that the network counts on, if it says so.

    Raises PolicyError where the network does not say what its encoder is, where Table 4 has no such strides, and for a
    plan that ends in other channels than the network counts on; RecipeError for a plan whose channels do not follow
    from each other.
    """
    point = point or network.encoder_insertion_point
    if point is None:
        raise PolicyError(
            f"{network.name} does not say which part of it is the encoder: name it in the recipe, [sbb] replaces = "
            "['...'], or apply binmat.transforms.sbb.ReplaceEncoder"
        )
    replaced = point.parts or (point.name,)
    for name in replaced:
        part_called(network, name)
    _, run = next(iter(run_graphs(network, probe_inputs(network))))
    inside = nodes_inside(run.graph, *replaced)
    if not inside:
        raise PolicyError(f"no mode of {network.name} runs '{', '.join(replaced)}': name the encoder that it calls")
    _, inputs, height, _ = run.shape(inputs_of(inside)[0])
    if plan is None:
        strides = [math.ceil(height / run.shape(node)[2]) for node in outputs_of(inside)]
        plan = _table_4(network, strides, shortcut, point.channels)
    encoder = SBBEncoder(replace(plan, normalise=point.normalise, inputs=inputs))
    if point.channels is not None and encoder.channels[-1] != point.channels:
        raise PolicyError(
            f"the SBB plan ends in {encoder.channels[-1]} channels and {network.name} counts on {point.channels}: "
            f"end its tail with {point.channels}"
        )
    return ReplaceEncoder(encoder, point.name, parts=point.parts)


def _table_4(network: Network, strides: list[int], shortcut: BlockShortcut, channels: int | None) -> SBBPlan:
    *finer, last = strides
    block_at = {2: 0, 4: 1, 8: 3, 16: 4}
    if last not in (8, 16, 32) or not all(s in block_at and s < last for s in finer):
        raise PolicyError(
            f"{network.name} reads features at strides {strides}, which BiMatting's Table 4 does not have: give a plan "
            "of your own, [sbb.plan] of the recipe"
        )
    default = SBBPlan()
    *blocks, fourth, end = default.blocks
    if last == 8:
        # As dilated backbones see as far without a stride.
        fourth, end = (SBBRow(row.channels, dilation=2) for row in (fourth, end))
    if last == 32:
        end = SBBRow(end.channels, stride=2)
    return SBBPlan(
        blocks=(*blocks, fourth, end),
        tail=default.tail if channels is None else (*default.tail[:-1], channels),
        features=tuple(block_at[s] for s in finer),
        shortcut=shortcut,
    )


def _is_inside(name: str, parts: Sequence[str]) -> bool:
    return any(name.startswith(f"{part}.") for part in parts)
