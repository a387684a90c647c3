"""What counting conventions ask of a norm."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from binmat.nn.ibnorm import IBNorm
from binmat.nn.operators import Target

from .call_recorder import Call

#: Where norms that are called as functions take their gain.
_GAIN_AT: dict[Target, int] = {
    **dict.fromkeys((torch.batch_norm, torch.instance_norm), 1),
    **dict.fromkeys((F.group_norm, torch.group_norm, F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm), 2),
    **dict.fromkeys((F.batch_norm, F.instance_norm), 3),
}


def has_gain(call: Call) -> bool:
    """Whether a norm, module or function, multiplies by a gain."""
    if call.module is not None:
        return getattr(call.module, "weight", None) is not None
    position = _GAIN_AT.get(call.target)
    return position is not None and call.argument(position, "weight") is not None


def of_the_batch(call: Call) -> bool:
    """Whether a batch norm, in evaluation, takes its statistics from the batch: it keeps none, or is told to."""
    if call.module is not None:
        return getattr(call.module, "running_mean", None) is None
    return bool(call.argument(5, "training"))


def ib_norm_elements(call: Call) -> tuple[int, int]:
    """Of an IBNorm's call, the elements that are batch normalised, with gain and shift, and those that are not."""
    norm = call.module
    assert isinstance(norm, IBNorm)
    with_gain = call.input.numel() * norm.batch_channels // norm.channels
    return with_gain, call.input.numel() - with_gain
