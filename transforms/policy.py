"""The policy: which layer gets which precision, resolved by name before any graph is rewritten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import fx, nn

from binmat.errors import PolicyError, suggestion
from binmat.model_defs.network import Network
from binmat.nn import BinaryLayer
from binmat.nn.operators import Kind
from binmat.quantizers import Scheme, get_scheme

from .executed import called_modules, evaluation_graphs, tensors_read
from .patterns import operator_at

FLOAT = "float"
#: Prefix of a rule that names a kind of layer instead of a layer: ``kind:depthwise``.
KIND = "kind:"
KINDS = ("conv", "pointwise", "grouped", "depthwise", "linear")
#: The note of a layer that was binary before the conversion.
BINARY_ALREADY = "binary already: left as it is"


@dataclass(frozen=True)
class LayerPlan:
    """What becomes of one layer.

    reason: why a float layer is float; empty for a binary one. note: what a pass did to the layer, if it did.
    """

    name: str
    kind: str
    scheme: Scheme | None
    reason: str = ""
    note: str = ""

    @property
    def precision(self) -> str:
        return "binary" if self.scheme else FLOAT


def layer_kind(layer: nn.Module) -> str | None:
    """conv, pointwise, grouped, depthwise or linear; None where the layer has no binary form."""
    if isinstance(layer, nn.Linear):
        return "linear"
    if not isinstance(layer, nn.Conv2d):
        return None
    if layer.groups > 1:
        return "depthwise" if layer.groups == layer.in_channels else "grouped"
    return "pointwise" if layer.kernel_size == (1, 1) else "conv"


def resolve(network: Network, default: Scheme, rules: Mapping[str, str] | None = None) -> dict[str, LayerPlan]:
    """Plan every convolution and linear layer of a traced network, by name.

    rules: pattern -> ``float`` or a scheme's name. Precedence: exact layer name, then fnmatch pattern, then
    ``kind:NAME`` (see KINDS), then ``default``; among equals the later rule wins. The network's input and output
    layers (its ``float_layers``, else the first and last layers of its graphs) stay float unless a rule names them
    exactly, or matches nothing else. A rule that names the default's scheme takes the default with its options.
    A layer that is binary already keeps its own scheme, whatever the patterns say.

    Raises PolicyError for a rule that matches no layer or a layer that has no such form, and for one that names a
    layer that is binary already.
    """
    rules = dict(rules or {})
    layers, obstacles = _layers(network), _obstacles(network)
    protected = protected_layers(network)
    already = {name: layer.scheme for name, layer in layers.items() if isinstance(layer, BinaryLayer)}
    for name in rules:
        if name in already:
            raise PolicyError(f"layer '{name}' is binary already ({already[name].name}): leave the rule out")
    matches = {pattern: _match(pattern, layers.keys() - already.keys(), layers) for pattern in rules}
    schemes = {value: get_scheme(value) for value in set(rules.values()) if value not in (FLOAT, default.name)}
    schemes[default.name] = default

    plan = {}
    for name, layer in layers.items():
        pattern = _winning_rule(name, rules, matches, protected)
        scheme, reason, note = None, "", ""
        if name in already and name not in obstacles:
            scheme, note = already[name], BINARY_ALREADY
        elif pattern is None and name in protected:
            reason = protected[name]
        elif pattern is not None and rules[pattern] == FLOAT:
            reason = f"policy: {pattern}=float"
        elif name in obstacles:
            reason = obstacles[name]
            if pattern == name:
                raise PolicyError(f"layer '{name}' cannot be binary: {reason}; leave it float")
        else:
            scheme = default if pattern is None else schemes[rules[pattern]]
        plan[name] = LayerPlan(name, layer_kind(layer) or type(layer).__name__, scheme, reason, note)
    return plan


def _match(pattern: str, names: Iterable[str], layers: Mapping[str, nn.Module]) -> set[str]:
    """Those of the names that a rule matches."""
    if not pattern.startswith(KIND):
        return matching(f"policy rule '{pattern}'", pattern, names, "convolution or linear layer")
    kind = pattern.removeprefix(KIND)
    if kind not in KINDS:
        raise PolicyError(f"no kind of layer is called '{kind}': known: {', '.join(KINDS)}")
    found = {name for name in names if layer_kind(layers[name]) == kind}
    if not found:
        raise PolicyError(f"policy rule '{pattern}' matches no convolution or linear layer")
    return found


def matching(what: str, pattern: str, names: Iterable[str], kind: str) -> set[str]:
    """The names that a pattern matches, exactly or by fnmatch.

    what, kind: what asks and what it asks for, in words, for the PolicyError where nothing matches.
    """
    found = {name for name in names if name == pattern or fnmatchcase(name, pattern)}
    if not found:
        raise PolicyError(f"{what} matches no {kind}{nearest(pattern, names)}")
    return found


def nearest(pattern: str, names: Iterable[str]) -> str:
    """The end of an error message: which name is closest to what was asked for."""
    return suggestion(pattern, names, "; the nearest layer is '{}'", cutoff=0)


def _winning_rule(
    name: str, rules: Mapping[str, str], matches: Mapping[str, set[str]], protected: Mapping[str, str]
) -> str | None:
    """The pattern that decides this layer, or None for the default."""
    if name in rules:
        return name
    shield = set(protected) if name in protected else set()
    patterns = [p for p in rules if name in matches[p] and (not shield or matches[p] <= shield)]
    by_name = [p for p in patterns if not p.startswith(KIND)]
    return next(reversed(by_name or patterns), None)


def protected_layers(network: Network) -> dict[str, str]:
    """The network's input and output layers by name, with the reason why each stays float."""
    names, reasons = _layers(network), network.float_layers
    if reasons:
        return {name: reasons[pattern] for pattern in reasons for name in names if fnmatchcase(name, pattern)}
    first = dict.fromkeys(_edge_layers(network, names, forward=True), "first layer: it reads the network's input")
    last = dict.fromkeys(_edge_layers(network, names, forward=False), "last layer: it makes the network's output")
    return first | last


def _layers(network: Network) -> dict[str, nn.Module]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}


def _obstacles(network: Network) -> dict[str, str]:
    """Layer -> why it cannot be binary: only a layer of exactly its type that is called as a module can."""
    called, read = called_modules(network), tensors_read(network)
    obstacles = {}
    for name, layer in _layers(network).items():
        outer = name.rpartition(".")[0]
        if isinstance(network.get_submodule(outer), nn.MultiheadAttention):
            obstacles[name] = f"'{outer}' computes with its weight in a function of its own"
        elif f"{name}.weight" in read:
            obstacles[name] = f"its weight goes through functions, and its class is {type(layer).__name__}"
        elif name not in called:
            obstacles[name] = "no call reaches it in evaluation"
        elif isinstance(layer, BinaryLayer):
            continue
        elif type(layer) not in (nn.Conv2d, nn.Linear):
            obstacles[name] = f"its class is {type(layer).__name__}, which may compute something else"
        elif isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros" and any(layer.padding):
            obstacles[name] = f"padding mode '{layer.padding_mode}' has no binary kernel"
    return obstacles


def _edge_layers(network: Network, layers: Iterable[str], *, forward: bool) -> set[str]:
    """Layers with no other layer before them (forward) or after them, in any of the network's graphs."""
    edge = set()
    for graph in evaluation_graphs(network).values():
        behind: dict[fx.Node, bool] = {}
        for node in graph.nodes if forward else reversed(graph.nodes):
            seen = any(behind[neighbour] for neighbour in (node.all_input_nodes if forward else node.users))
            inside = [name for name in layers if node.op == "call_module" and f"{name}.".startswith(f"{node.target}.")]
            if inside and not seen:
                edge.update(inside)
            operator = operator_at(node, network)
            behind[node] = seen or bool(inside) or (operator is not None and operator.kind is Kind.PRODUCT)
    return edge
