"""Replace the activation functions behind binary layers, as ReActNet does, or before them, as ReCU does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg

from binmat.errors import PolicyError
from binmat.model_defs.network import Network
from binmat.nn import BinaryConv2d, BinaryLayer, BinaryLinear, RPReLU
from binmat.nn.masked_path import MaskedPath
from binmat.nn.operators import Kind, operator_of
from binmat.quantizers.scheme import REPLACEMENTS, Replacement

from .graph_pass import GraphPass
from .part_calls import hand_over
from .patterns import activation_module, activations_before, binary_blocks, called_module, parameters_read
from .policy import nearest
from .swap import carry_hooks, remove_unread, swap
from .trace import graphs, recompile

#: Where the slope starts that replaces a function without one of its own, or with the slope 0.
DEFAULT_SLOPE = 0.25

#: From an activation function, as a module, to what takes its place.
_Maker = Callable[[nn.Module], nn.Module]
#: Binary layers by their names.
_Layers = dict[str, BinaryConv2d | BinaryLinear]


@dataclass(eq=False)
class ReplaceActivations(GraphPass[Network]):
    """Replaces activation functions where the scheme of a binary layer asks for it by its ``replacement``.

    ``rprelu`` and ``shifted_prelu`` put an RPReLU behind the layer, the latter without a shift of its output.
    ``hardtanh`` and ``identity`` replace what stands before its sign. keep: names of layers, exact or fnmatch, for
    which nothing is replaced; one that matches no binary layer is a PolicyError. untouched: names of layers that were
    binary before: nothing is replaced for them either.

    Module, function and method calls are all found on the graph. Behind a layer: layer, batch norm and activation in a
    row, or with a shortcut's addition before the activation, where ReActNet has it:
    RPReLU(batch_norm(conv(sign(x))) + shortcut).
    An activation that stands before the addition keeps that place. The new module takes the old one's name, or
    ``<layer>_rprelu`` where there was no module or it serves elsewhere too. A layer that is called twice and activated
    by two functions or modules has one for each. Its channels' dimension is the layer's. Its slope starts as
    LeakyReLU's or PReLU's own, else at .25. Not at ReLU's 0: what is never negative has the sign +1 everywhere, and the
    next binary layer would see nothing of the picture.
    Source: Liu et al., ReActNet, ECCV 2020, Eq. 5 and Fig. 4.

    Before a layer: every activation function whose result reaches the sign through pooling, resizing, joining,
    reshaping, sums, products and other such functions alone. It is replaced if all binary layers that it reaches so ask
    for the same.
    Source: the blocks of XNOR-Net (Rastegari et al., ECCV 2016, Fig. 3) and of ReCU's code (Xu et al., ICCV 2021).

    >>> from binmat.quantizers import get_scheme
    >>> from binmat.transforms.binarize import Binarize
    >>> from binmat.transforms.trace import trace
    >>> module = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    >>> network = Binarize(get_scheme("reactnet")).apply(trace(module))
    >>> type(ReplaceActivations().apply(network).get_submodule("2")).__name__
    'RPReLU'
    """

    keep: Sequence[str] = ()
    untouched: Collection[str] = ()

    def apply(self, network: Network) -> Network:
        self._check_keep(network)
        slopes: set[str] = set()
        for neighbours, maker_for in ((_layers_before, self._maker_behind), (_layers_behind, self._maker_before)):
            made: dict[tuple[str, str], str] = {}
            found = {graph: neighbours(graph, network) for graph in graphs(network).values()}
            names = {old: next(iter(layers)) for near in found.values() for old, layers in near.items()}
            for graph, near in found.items():
                for old, layers in near.items():
                    maker = maker_for(layers)
                    if maker is not None:
                        slopes |= parameters_read(old)
                        self._replace(network, graph, old, maker, made, names)
        for name, path in network.named_modules():
            if isinstance(path, MaskedPath):
                self._replace_inside(name, path)
        remove_unread(network, slopes)
        recompile(network)
        return network

    def _check_keep(self, network: Network) -> None:
        binary = [name for name, module in network.named_modules() if isinstance(module, BinaryLayer)]
        for pattern in self.keep:
            if not any(fnmatchcase(name, pattern) for name in binary):
                raise PolicyError(f"keep_activations '{pattern}' matches no binary layer{nearest(pattern, binary)}")

    def _wanted(self, name: str, layer: BinaryLayer) -> Replacement:
        kept = name in self.untouched or any(fnmatchcase(name, pattern) for pattern in self.keep)
        return REPLACEMENTS["keep" if kept else layer.scheme.replacement]

    def _maker_behind(self, layers: _Layers) -> _Maker | None:
        """What replaces the activation behind these layers; None where it stays."""
        if not all(self._wanted(name, layer).behind for name, layer in layers.items()):
            return None
        first = next(iter(layers.values()))
        return lambda activation: _rprelu(first, _start_slope_of(activation))

    def _maker_before(self, layers: _Layers) -> _Maker | None:
        """What replaces the activation before these layers; None where it stays."""
        maker, *others = (self._wanted(name, layer).before for name, layer in layers.items())
        if maker is None or any(other is not maker for other in others):
            return None
        return lambda activation: maker().train(activation.training)

    def _replace_inside(self, name: str, path: MaskedPath) -> None:
        """A masked path is one node of the graph: its rows are found by their order in it.

        What stands behind a layer stands before the sign of the next; at the path's end, of one behind the path.
        """
        layer: _Layers = {}
        children = list(path.named_children())
        for position, (key, module) in enumerate(children):
            operator = operator_of(type(module))
            if isinstance(module, BinaryConv2d):
                layer = {f"{name}.{key}": module}
            elif layer and (operator is None or operator.kind is not Kind.NORM):
                after = next((child for _, child in children[position:] if isinstance(child, nn.Conv2d)), None)
                before_sign = after is None or isinstance(after, BinaryLayer)
                maker = self._maker_behind(layer) or (self._maker_before(layer) if before_sign else None)
                if maker and operator is not None and operator.replaceable and type(module) in operator.modules:
                    made = maker(module)
                    carry_hooks(module, made)
                    path.set_submodule(key, made)
                layer = {}

    def _replace(
        self,
        network: Network,
        graph: fx.Graph,
        old: fx.Node,
        maker: _Maker,
        made: dict[tuple[str, str], str],
        layers: dict[fx.Node, str],
    ) -> None:
        # A layer that is called twice may be activated by two functions.
        key = layers[old], _function_of(old)
        if key not in made:
            called = called_module(old, network)
            new_module = maker(called or activation_module(old, network))
            name = self._free_name(network, old, layers, type(new_module).__name__.lower())
            if called is not None:
                carry_hooks(called, new_module)
            if called is not None and name == old.target:
                swap(network, {name: new_module})
            else:
                network.set_submodule(name, new_module)
            made[key] = name
        with graph.inserting_before(old):
            new = graph.call_module(made[key], (old.args[0],))
        old.replace_all_uses_with(new)
        hand_over(old, new)
        graph.erase_node(old)

    @staticmethod
    def _free_name(network: Network, old: fx.Node, layers: dict[fx.Node, str], kind: str) -> str:
        """The replaced module's own name if nothing else calls that module, else a new one beside the layer.

        layers: activation -> the binary layer beside it. A call site is the same in every mode's graph by that layer.
        """
        module = called_module(old, network)
        if module is not None:
            names = {name for name, other in network.named_modules(remove_duplicate=False) if other is module}
            callers = {
                layers.get(node, node)
                for graph in graphs(network).values()
                for node in graph.nodes
                if node.op == "call_module" and node.target in names
            }
            if len(callers) == 1:
                return str(old.target)
        name = f"{layers[old]}_{kind}"
        taken = dict(network.named_modules())
        while name in taken:
            name += "_"
        return name


def _layers_before(graph: fx.Graph, network: Network) -> dict[fx.Node, _Layers]:
    """Activation -> the binary layers that it activates: several where their results are added up before."""
    found: dict[fx.Node, _Layers] = {}
    for block in binary_blocks(graph, network):
        if block.activation is not None:
            found.setdefault(block.activation, {})[str(block.layer.target)] = block.module
    return found


def _layers_behind(graph: fx.Graph, network: Network) -> dict[fx.Node, _Layers]:
    """Activation -> the binary layers whose signs it decides."""
    found: dict[fx.Node, _Layers] = {}
    for block in binary_blocks(graph, network):
        for activation in activations_before(block.layer, network):
            found.setdefault(activation, {})[str(block.layer.target)] = block.module
    return found


def _function_of(activation: fx.Node) -> str:
    """What an activation's node calls, in every graph alike: the function with its options, or the module's name."""
    options = map_arg((*activation.args[1:], *activation.kwargs.values()), lambda source: str(source.target))
    return f"{activation.target} {options}"


def _rprelu(layer: BinaryConv2d | BinaryLinear, slope: float | Tensor) -> RPReLU:
    weight = layer.weight
    channels = weight.shape[0]
    output_shift = REPLACEMENTS[layer.scheme.replacement].output_shift
    made = RPReLU(
        channels, device=weight.device, dtype=weight.dtype, output_shift=output_shift, dim=layer.sample_dims[0]
    )
    slope = torch.as_tensor(slope)
    with torch.no_grad():
        # PReLU's slopes are along dimension 1, which need not be the layer's channels: of others the mean is taken.
        made.slope.copy_((slope if slope.numel() in (1, channels) else slope.mean()).expand(channels))
    return made.train(layer.training)


def _start_slope_of(module: nn.Module) -> float | Tensor:
    if isinstance(module, nn.LeakyReLU):
        return module.negative_slope or DEFAULT_SLOPE
    return module.weight if isinstance(module, nn.PReLU) else DEFAULT_SLOPE
