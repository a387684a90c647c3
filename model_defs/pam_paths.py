"""Paths through PAM: their names, their costs and the choice of one under a cost limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from binmat.errors import InputError

#: Path selection layers, N^a of the paper.
SELECTIONS = 4

#: Every path: one bit per path selection layer in the order of execution, 1 where the layers run, 0 where they are
#: bypassed.
PATHS = tuple("".join(bits) for bits in product("01", repeat=SELECTIONS))

#: The path that runs every layer, the dearest.
WHOLE = "1" * SELECTIONS

#: Multiply-accumulates in one G of a cost limit.
GIGA = 10**9


class ConvolutionCounter(TorchDispatchMode):
    """Counts the multiply-accumulates of the convolutions that run inside it, on meta tensors as on real ones.

    One multiply-accumulate is one FLOP and nothing but convolutions counts: binmat's ``textbook`` convention on a
    path, which has no linear layer and no matrix product.
    """

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            weight: Tensor = args[1]
            self.macs += out.numel() * math.prod(weight.shape[1:])
        return out


def check_path(path: str) -> str:
    """The path itself. Raises InputError where it is not four bits."""
    if path not in PATHS:
        raise InputError(f"'{path}' is no path of pam: give {SELECTIONS} bits, 1 for layers that run, such as {WHOLE}")
    return path


def within(macs: int, cost_limit: float) -> bool:
    """Whether a cost keeps a limit in G, with half a multiply-accumulate to spare: a path keeps its own cost in G."""
    return macs <= cost_limit * GIGA + 0.5


def limit_in_macs(cost_limit: float, costs: Mapping[str, int], where: str) -> int:
    """A limit in G multiply-accumulates as a whole number of them, at most the dearest path's cost.

    costs: path -> multiply-accumulates; where: the size they hold for, for the message. Raises InputError where the
    limit is not a number or lies below the cheapest path.
    """
    least = min(costs, key=costs.__getitem__)
    if not within(costs[least], cost_limit):
        # Rounded up, so that the number in the message is itself a limit that works.
        need = math.ceil(costs[least] / 1e6) / 1e3
        raise InputError(
            f"the cost limit {cost_limit:g} G is below pam's cheapest path, {least}, at {where}: "
            f"give at least {need:.3f} G"
        )
    return round(min(cost_limit * GIGA, max(costs.values())))


def dearest_within(costs: Mapping[str, int], limit: int) -> str:
    """The dearest path that costs at most ``limit`` multiply-accumulates. At least one must."""
    return max((path for path in costs if costs[path] <= limit), key=costs.__getitem__)


def open_bits(costs: Mapping[str, int], prefix: str, limit: int) -> tuple[str, ...]:
    """The next bits after ``prefix`` with which some path still costs at most ``limit`` multiply-accumulates."""
    return tuple(
        bit for bit in "01" if min(cost for path, cost in costs.items() if path.startswith(prefix + bit)) <= limit
    )
