"""Make a decoder sparse-assisted: compute its wide convolutions only where a coarse matte is uncertain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx, nn

from binmat.errors import PolicyError
from binmat.model_defs.conversion_facts import ConversionFacts
from binmat.model_defs.insertion_points import MaskHeadInsertionPoint
from binmat.model_defs.network import Example, Network
from binmat.nn.conv_gru import ConvGRU
from binmat.nn.conv_norm import conv_norm_relu
from binmat.nn.incoherence import IncoherenceMask
from binmat.nn.recurrence import Recurrent
from binmat.nn.sparse_conv import keeps_size
from binmat.nn.sparse_gru import SparseConvGRU

from .graph_pass import GraphPass
from .mask_route import MaskRoute
from .masked_rows import MaskedRows
from .patterns import called_module, row_of
from .policy import matching, protected_layers
from .shapes import probe_inputs, run_graphs
from .subgraph import add_module, call_module, nodes_inside, outputs_of, part_called, splice
from .swap import swap
from .trace import graphs, recompile
from .tracer import trace_method

_CHANGES_SIZE = "it has groups, a stride or a padding that changes the size"


@dataclass(eq=False)
class SparseDecoder(GraphPass[Network]):
    """o = mask * path(x) + path_1x1(x) in place of o = path(x), for the convolutions that the targets name (Eq. 8).

    targets: patterns (exact name or fnmatch) of the network's convolutions. Each one wider than 1x1 becomes a
    :class:`binmat.nn.masked_path.MaskedPath`, together with the batch norm and the activation that follow it directly.
    Targets that follow each other directly share one path. Beside it comes the same row with 1x1 kernels, computed
    everywhere. A :class:`binmat.nn.conv_gru.ConvGRU` whose gates are both targets becomes a
    :class:`binmat.nn.sparse_gru.SparseConvGRU`.

    insertion_point: where the mask head goes; its mask (:class:`binmat.nn.incoherence.IncoherenceMask`) is enlarged
    bilinearly to each target's size. example: the example inputs, for modules that cannot tell theirs.

    Apply it before binarization, so that the policy covers the new convolutions. A 1x1 convolution beside a float
    output layer stays float too.

    Source: Qin et al., BiMatting, NeurIPS 2023, Sec. 3.3. Raises PolicyError where no mode runs the insertion point,
    where targets match nothing, run before the mask is known or cannot be masked, and where channels do not fit. The
    network may then be half rewritten: apply the pass to a copy, as :func:`binmat.transforms.convert.convert` does.

    >>> from torch.nn import Conv2d, Sequential, Upsample
    >>> from binmat.transforms.trace import trace
    >>> network = trace(Sequential(Conv2d(3, 8, 3, 4, 1), Upsample(scale_factor=4), Conv2d(8, 1, 3, 1, 1)))
    >>> SparseDecoder(["2"], MaskHeadInsertionPoint(after="0", head="coarse")).apply(network).get_submodule("2")
    MaskedPath(
      (0): Conv2d(8, 1, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    )
    """

    targets: Sequence[str]
    insertion_point: MaskHeadInsertionPoint
    example: Example | None = None

    def apply(self, network: Network) -> Network:
        inputs = probe_inputs(network, self.example)
        convs, gates = self._select(network)
        protected = protected_layers(network)
        masks = self._add_head(network, inputs)
        rows = MaskedRows(network, convs)
        for mode, graph in graphs(network).items():
            route = MaskRoute(graph, masks.get(mode), self.insertion_point.after)
            for chain in rows.chains(graph):
                rows.rewrite(graph, chain, route)
            for node in list(graph.nodes):
                if node.op == "call_module" and node.target in gates:
                    node.args = (*node.args, route.mask_for(node, node.args[0], str(node.target)))
        rows.install()
        swap(network, {name: SparseConvGRU.from_dense(gru) for name, gru in gates.items()})
        self._protect(network, protected, rows)
        network.min_size = max(network.min_size, self.insertion_point.min_size)
        recompile(network)
        for _ in run_graphs(network, inputs):
            pass
        return network

    def _select(self, network: Network) -> tuple[set[str], dict[str, ConvGRU]]:
        """The convolutions in rows, and the recurrences by name, that the targets name."""
        convs = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
        chosen: set[str] = set()
        for pattern in self.targets:
            for name in matching(f"sparse target '{pattern}'", pattern, convs, "convolution"):
                narrow = convs[name].kernel_size == (1, 1)
                if keeps_size(convs[name]) and not narrow:
                    chosen.add(name)
                elif name == pattern:
                    obstacle = "its kernel is 1x1" if narrow else _CHANGES_SIZE
                    raise PolicyError(f"'{name}' cannot be masked: {obstacle}; leave it out of the targets")
                elif not narrow:
                    self.notes[name] = f"left dense: {_CHANGES_SIZE}"
        if not chosen:
            raise PolicyError(
                f"none of the convolutions that {', '.join(self.targets)} name can be masked: "
                "aim at convolutions wider than 1x1 that keep the size"
            )
        gates = {}
        for name, module in network.named_modules():
            inner = {conv for conv in convs if conv.startswith(f"{name}.")} if isinstance(module, Recurrent) else set()
            if not inner & chosen:
                continue
            if type(module) is not ConvGRU or not inner <= chosen:
                left = ", ".join(sorted(inner - chosen))
                raise PolicyError(
                    f"'{name}' cannot be masked: "
                    + (f"its gates {left} are not targets; name all or none" if left else "only a ConvGRU can")
                )
            chosen -= inner
            gates[name] = module
        return chosen, gates

    def _add_head(self, network: Network, inputs: Mapping[str, Tensor | float]) -> dict[str, fx.Node]:
        """Add the mask head to every mode that runs the insertion point; mode -> the mask."""
        point = self.insertion_point
        masks = [name for name, module in network.named_modules() if isinstance(module, IncoherenceMask)]
        if masks:
            raise PolicyError(
                f"{network.name} has a coarse alpha already, which '{masks[0]}' makes a mask of, and '{point.head}' "
                "would be a second one: make the decoder sparse once"
            )
        features = {mode: _feature(graph, network, point.after) for mode, graph in graphs(network).items()}
        # A mode whose arguments are not known (LSA-Matting's decoder alone) has the channels of those that run.
        counts = {
            run.shape(node)[1] for mode, run in run_graphs(network, inputs) if (node := features[mode]) is not None
        }
        if not counts:
            part_called(network, point.after)
            raise PolicyError(
                f"{network.name} has no insertion point for the mask head: no mode runs '{point.after}'; "
                "name a coarse block of its decoder"
            )
        like = next(network.parameters())
        if len(counts) > 1:
            raise PolicyError(f"'{point.after}' gives {sorted(counts)} channels in different modes: choose another")
        channels = counts.pop()
        if point.channels is not None:
            head = conv_norm_relu(channels, point.channels)
            add_module(network, point.head, head.to(like.device, like.dtype).train(network.training))
            channels = point.channels
        add_module(network, f"{point.head}_mask", IncoherenceMask())
        if point.method is None:
            alpha = nn.Conv2d(channels, 1, kernel_size=1, device=like.device, dtype=like.dtype)
            add_module(network, f"{point.head}_alpha", alpha)
        names = {mode: network.output_names(mode) for mode in features}
        network.conversion = replace(network.conversion or ConversionFacts(), side_outputs=point.outputs)
        return {
            mode: self._add_nodes(network, mode, node, names[mode])
            for mode, node in features.items()
            if node is not None
        }

    def _add_nodes(self, network: Network, mode: str, feature: fx.Node, names: tuple[str, ...] | None) -> fx.Node:
        """Call the head in one mode's graph and add its outputs to the mode's own ``names``. Returns the mask."""
        graph, point = feature.graph, self.insertion_point
        for name in set(point.outputs).intersection(names or ()):
            raise PolicyError(f"mode {mode} of {network.name} returns a '{name}' already: rename the coarse one")
        with graph.inserting_before(feature.next):
            x = feature
            if point.channels is not None:
                for index in range(3):
                    x = call_module(graph, f"{point.head}.{index}", (x,), feature)
            if point.method is None:
                sides = {point.alpha: call_module(graph, f"{point.head}_alpha", (x,), feature)}
            else:
                made = _call_method(network, graph, point.method, x)
                sides = dict(zip(point.outputs or (point.alpha,), made, strict=True))
            if point.settle is not None:
                (sides[point.alpha],) = _call_method(network, graph, point.settle, sides[point.alpha])
            mask = call_module(graph, f"{point.head}_mask", (sides[point.alpha],), feature)
        output = graph.output_node()
        results: Any = output.args[0]
        results = tuple(results) if isinstance(results, (tuple, list)) else (results,)
        after = network.output_names(mode)
        if names is None or after is None:
            extended = (*results, *(sides[name] for name in point.outputs))
        else:
            outputs = dict(zip(names, results, strict=True)) | sides
            extended = tuple(outputs[name] for name in after)
        if extended != results:
            output.args = (extended,)
        return mask

    def _protect(self, network: Network, protected: Mapping[str, str], rows: MaskedRows) -> None:
        """Keep input and output layers float under their new names, and so their 1x1 companions and alpha."""
        kept = {rows.moved.get(name, name): reason for name, reason in (network.float_layers or protected).items()}
        kept |= {new: protected[name] for name, new in rows.companions.items() if name in protected}
        if self.insertion_point.method is None:
            kept[f"{self.insertion_point.head}_alpha"] = "output layer: the coarse alpha that the mask is made of"
        network.float_layers = kept


def _call_method(network: Network, graph: fx.Graph, method: str, x: fx.Node) -> tuple[fx.Node, ...]:
    """A method of the network in one mode's graph, of x and the mode's arguments that it names."""
    part = trace_method(network, method)
    first, *others = [str(node.target) for node in part.nodes if node.op == "placeholder"]
    known = {str(node.target): node for node in graph.nodes if node.op == "placeholder"}
    return splice(graph, part, {first: x} | {name: known[name] for name in others})


def _feature(graph: fx.Graph, network: Network, after: str) -> fx.Node | None:
    """The tensor that the part ``after`` passes on; for a convolution, behind its norm and activation."""
    inside = nodes_inside(graph, after)
    if not inside:
        return None
    if len(inside) == 1 and isinstance(called_module(inside[0], network), nn.Conv2d):
        tail, activation = row_of(inside[0], network)
        return activation or tail
    handed_on = [node for node in outputs_of(inside) if any(user.op != "output" for user in node.users)]
    if not handed_on:
        raise PolicyError(
            f"no layer of {network.name} reads the output of '{after}' as it is: name a part whose output tensor the "
            "next layer reads"
        )
    if len(handed_on) != 1:
        raise PolicyError(
            f"'{after}' hands on {len(handed_on)} tensors ({', '.join(node.name for node in handed_on)}): "
            "name a part of it that hands on one"
        )
    return handed_on[0]


def sab_decoder(network: Network, point: MaskHeadInsertionPoint | None = None) -> SparseDecoder:
    """The pass for an insertion point, by default the network's own. Raises PolicyError where it has none."""
    point = point or network.mask_head_insertion_point
    if point is None:
        raise PolicyError(
            f"{network.name} has no insertion point for the mask head: name one in the recipe, [sab] after = '...' and "
            "targets = [...], or apply binmat.transforms.sab.SparseDecoder"
        )
    return SparseDecoder(point.targets, point)
