"""Proves that the deployment graph computes what the network itself computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from binmat.model_defs.network import Example
from binmat.transforms.lower import lower
from binmat.transforms.trace import trace

#: Largest difference, relative to an output's range, that float64 rounding explains.
LIMIT = 1e-9


@dataclass(frozen=True)
class LoweringCheck:
    """max_abs: the largest difference of an output; worst: the largest relative to its output's range."""

    max_abs: float
    worst: float

    @property
    def passed(self) -> bool:
        # NaN must fail.
        return self.worst <= LIMIT


def check_lowering(network: nn.Module, example: Example, frame: Mapping[str, Tensor]) -> LoweringCheck:
    """Run the network in evaluation mode and its deployment graph on one frame, both in float64, and compare.

    frame: the inputs that are not states, by name, NCHW; states are zeros. In float64 rounding is too small to move a
    value across its threshold, so folding that is wrong cannot hide behind flipped signs, nor right folding look wrong.
    """
    owner = trace(copy.deepcopy(network)).eval().double()
    inputs = {**example.inputs, **frame}
    arguments = [value.double() if isinstance(value, Tensor) else value for value in inputs.values()]
    with torch.no_grad():
        result = owner.run(example.mode, *arguments)
    expected = tuple(result) if isinstance(result, (tuple, list)) else (result,)
    actual = lower(network, example, torch.float64)(*[value for value in arguments if isinstance(value, Tensor)])
    differences = torch.stack([(got - want).abs().max() for got, want in zip(actual, expected, strict=True)])
    spans = torch.stack([want.abs().max() for want in expected]).clamp_min(torch.finfo(torch.float32).tiny)
    return LoweringCheck(float(differences.max()), float((differences / spans).max()))
