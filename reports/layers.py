"""The layers of a report: every convolution, linear layer and matrix product, called or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from binmat.nn import BinaryLayer
from binmat.transforms.convert import plan_of
from binmat.transforms.policy import layer_kind

from .call_recorder import Call
from .count import operator_name
from .macs import MACS, macs_of
from .storage import FLOAT_BITS, as_bytes, stored_bits, weight_bits

_LAYERS = tuple(module for operator in MACS for module in operator.modules)


@dataclass(frozen=True)
class Layer:
    """One layer of the counted network.

    kind: conv, pointwise, grouped, depthwise, linear, or the class (function) where it is none of these.
    precision: ``binary`` or ``float``; scheme: the binary layer's.
    macs: multiply-accumulates in one frame, whatever their precision; bops: those of them that are done on bits.
    weight_bits: of one weight. bytes: what the layer stores, by formula. path: the masked path of a sparse-assisted
    decoder that the layer is part of, or None.
    reason: why the layer is float, what a pass did to it, that its input signs are constant, or why it has no macs;
    empty where there is nothing to explain.
    """

    name: str
    kind: str
    precision: str
    scheme: str | None
    macs: int
    bops: int
    weight_bits: int
    bytes: float
    reason: str
    path: str | None = None


def list_layers(
    network: nn.Module, calls: Sequence[Call], downsample_ratio: float, blind: Mapping[str, str] | None = None
) -> tuple[Layer, ...]:
    """The layers in the order of the network, then products called as functions, in order of execution.

    blind: layer whose input signs are constant -> how that is known.
    """
    macs: dict[str, int] = {}
    opaque: list[str] = []
    paths = {call.name: call.path for call in calls if call.path}
    functions: dict[str, str] = {}
    for call in calls:
        macs[call.name] = macs.get(call.name, 0) + macs_of(call)
        if call.module is None and macs_of(call):
            functions[call.name] = operator_name(call)
        elif call.module is not None and any(True for _ in call.module.children()):
            opaque.append(call.name)
    bits = stored_bits(network)
    layers = []
    for name, module in network.named_modules():
        if isinstance(module, _LAYERS):
            reasons = [_why_float(network, name, module), _note(network, name)]
            if blind and name in blind:
                reasons.append(blind[name])
            if name not in macs:
                leaf = next((leaf for leaf in opaque if name.startswith(f"{leaf}.")), None)
                if leaf is None:
                    reasons.append(f"not on the path at ratio {downsample_ratio:g}")
                else:
                    unseen = f"inside '{leaf}', which is not looked into"
                    reasons.append(f"counted with '{leaf}'" if macs[leaf] else unseen)
            reason = "; ".join(filter(None, reasons))
            layers.append(_layer(name, module, macs.get(name, 0), bits.get(name, 0), reason, paths.get(name)))
    for name, kind in functions.items():
        reason = "a function, not a layer with weights"
        layers.append(Layer(name, kind, "float", None, macs[name], 0, FLOAT_BITS, 0, reason))
    return tuple(layers)


def _layer(name: str, module: nn.Module, macs: int, bits: int, reason: str, path: str | None) -> Layer:
    scheme = module.scheme.name if isinstance(module, BinaryLayer) else None
    return Layer(
        name=name,
        kind=layer_kind(module) or type(module).__name__,
        precision="binary" if scheme else "float",
        scheme=scheme,
        macs=macs,
        bops=macs if scheme else 0,
        weight_bits=weight_bits(module),
        bytes=as_bytes(bits),
        reason=reason,
        path=path,
    )


def _why_float(network: nn.Module, name: str, module: nn.Module) -> str:
    plan = plan_of(network).get(name)
    if isinstance(module, BinaryLayer) or plan is not None:
        return "" if plan is None else plan.reason
    return "not converted" if layer_kind(module) else f"{type(module).__name__} has no binary form"


def _note(network: nn.Module, name: str) -> str:
    plan = plan_of(network).get(name)
    return "" if plan is None else plan.note
