"""Which binary layers see nothing of the picture: their input is never negative, so its signs are all +1."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from binmat.model_defs.network import Network
from binmat.nn import BinaryLayer
from binmat.nn.masked_path import MaskedPath
from binmat.nn.operators import OPERATORS, Kind, NonNegative, Operator, operator_of

from .patterns import called_module, operator_at
from .trace import graphs


def nonnegative_inputs(network: Network, mode: str) -> tuple[str, ...]:
    """Binary layers of a converted network whose input signs are all +1 in a mode, in the network's order.

    Behind a ReLU, sign(x - tau) of what is never negative is +1 where tau is not above 0: the layer gives a constant,
    or at a zero-padded border one of a few. A scheme that learns no threshold (bnn, xnor, recu and others) has tau = 0,
    and no training moves its input to the other side. ``replacement = "hardtanh"`` takes the ReLU away. Thresholds that
    are learnt start at 0: :func:`binmat.calibrate` moves them. Found on the mode's graph and the thresholds as they
    are; an operator that is not known counts as one that may give negative values.

    What takes data to find, such as an input that stays below DoReFa's 1/2, is found by
    :func:`binmat.transforms.one_sided_layers.one_sided_layers`.
    """
    blind: dict[str, bool] = {}
    positive: set[fx.Node] = set()
    for node in graphs(network)[mode].nodes:
        module = called_module(node, network)
        fed_positive = bool(node.args) and node.args[0] in positive
        if isinstance(module, BinaryLayer):
            _note(blind, str(node.target), module, fed_positive)
        elif isinstance(module, MaskedPath):
            _note_inside(blind, str(node.target), module, fed_positive)
        else:
            operator = operator_at(node, network, exact=True)
            if operator is not None and _is_positive(operator, node, module, positive):
                positive.add(node)
    return tuple(name for name, _ in network.named_modules() if blind.get(name))


def _note(blind: dict[str, bool], name: str, layer: BinaryLayer, fed_positive: bool) -> None:
    blind[name] = blind.get(name, True) and fed_positive and bool((layer.deployed().threshold <= 0).all())


def _note_inside(blind: dict[str, bool], name: str, path: MaskedPath, fed_positive: bool) -> None:
    """A masked path is one node of the graph: its layers follow each other."""
    for key, module in path.named_children():
        if isinstance(module, BinaryLayer):
            _note(blind, f"{name}.{key}", module, fed_positive)
        operator = operator_of(type(module), exact=True)
        when = NonNegative.UNKNOWN if operator is None else operator.non_negative
        fed_positive = when is NonNegative.ALWAYS or (fed_positive and when is NonNegative.AS_INPUT)


def _is_positive(operator: Operator, node: fx.Node, module: nn.Module | None, positive: set[fx.Node]) -> bool:
    if operator.non_negative is NonNegative.AS_OPERANDS:
        sources = node.all_input_nodes
        numbers = (value for value in (*node.args, *node.kwargs.values()) if isinstance(value, (int, float)))
        return bool(sources) and all(x in positive for x in sources) and all(number >= 0 for number in numbers)
    if operator.non_negative is NonNegative.AS_INPUT:
        # torch.cat and the like take a list of tensors.
        first = node.args[0] if node.args else node.kwargs.get("tensors")
        operands: list[Any] = list(first) if isinstance(first, (list, tuple)) else [first]
        return all(x in positive for x in operands) and _keeps_sign(operator, node, module)
    return operator.non_negative is NonNegative.ALWAYS


def _keeps_sign(operator: Operator, node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the options leave a result non-negative: what is padded with, and how is interpolated."""
    if operator is OPERATORS["pad"]:
        value = _option(node, module, "value")
        return value is None or (isinstance(value, (int, float)) and value >= 0)
    # Bicubic interpolation overshoots.
    return operator.kind not in (Kind.UPSAMPLE, Kind.INTERPOLATION) or _option(node, module, "mode") != "bicubic"


def _option(node: fx.Node, module: nn.Module | None, name: str) -> Any:
    """An option of a module, or of F.pad or F.interpolate, whose fourth argument it is; None where it is not given."""
    if module is not None:
        return getattr(module, name, None)
    return node.args[3] if len(node.args) > 3 else node.kwargs.get(name)
