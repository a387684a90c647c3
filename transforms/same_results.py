"""Whether two calls gave the same tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

#: Largest difference, relative to the largest value, of what runs the same operators.
TOLERANCE = 1e-5
#: How often runs are repeated while other threads draw random numbers.
ATTEMPTS = 5

T = TypeVar("T")


def with_equal_chance(*runs: Callable[[], T]) -> list[T]:
    """What the runs give, each with torch's random numbers from the same seed.

    Torch's generator belongs to the process. Where the runs leave it in different states and there are other threads,
    which may have drawn from it, all runs are repeated.

    >>> first, second = with_equal_chance(lambda: torch.rand(2), lambda: torch.rand(2))
    >>> torch.equal(first, second)
    True
    """
    for _ in range(ATTEMPTS):
        results, states = [], []
        for run in runs:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                results.append(run())
                states.append(torch.get_rng_state())
        if threading.active_count() == 1 or all(torch.equal(state, states[0]) for state in states):
            break
    return results


def first_difference(expected: Sequence[Tensor | None], actual: Sequence[Tensor | None]) -> int | None:
    """The index of the first tensor that is another one, or None: in number, shape, dtype or value.

    NaN equals NaN, and an infinity equals one of its sign. Other values are measured by the largest finite one.
    """
    for index, (one, other) in enumerate(zip(expected, actual, strict=False)):
        if one is None or other is None:
            if one is not other:
                return index
            continue
        if one.shape != other.shape or one.dtype != other.dtype:
            return index
        finite = one.detach()[one.isfinite()]
        scale = float(finite.abs().max()) if finite.numel() and one.is_floating_point() else 1.0
        if not torch.allclose(other, one, rtol=0, atol=TOLERANCE * scale, equal_nan=True):
            return index
    return None if len(expected) == len(actual) else min(len(expected), len(actual))
