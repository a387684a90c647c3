"""What counting conventions ask of a norm."""

from __future__ import annotations

from binmat.nn.ibnorm import IBNorm
from binmat.nn.operators import OPERATORS, Operator

from .call_recorder import Call

#: Where norms that are called as functions take their gain.
_GAIN_AT: dict[Operator | None, int] = {
    OPERATORS["batch_norm"]: 3,
    OPERATORS["instance_norm"]: 3,
    OPERATORS["group_norm"]: 2,
    OPERATORS["layer_norm"]: 2,
}


def has_gain(call: Call) -> bool:
    """Whether a norm, module or function, multiplies by a gain."""
    if call.module is not None:
        return getattr(call.module, "weight", None) is not None
    position = _GAIN_AT.get(call.operator)
    return position is not None and call.argument(position, "weight") is not None


def ib_norm_elements(call: Call) -> tuple[int, int]:
    """Of an IBNorm's call, the elements that are batch normalised, with gain and shift, and those that are not."""
    norm = call.module
    assert isinstance(norm, IBNorm)
    with_gain = call.input.numel() * norm.batch_channels // norm.channels
    return with_gain, call.input.numel() - with_gain
