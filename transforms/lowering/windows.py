"""Sliding windows of convolutions and pooling: where each one begins and ends, dimension by dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A window moving along one dimension. out: how many positions torch computes; reach: what one window spans."""

    size: int
    out: int
    kernel: int
    stride: int
    padding: int
    dilation: int = 1

    @property
    def reach(self) -> int:
        return (self.kernel - 1) * self.dilation + 1

    @property
    def after(self) -> int:
        """Padding that the last window needs behind the data; negative where it ends before the data does."""
        return (self.out - 1) * self.stride + self.reach - self.size - self.padding

    def start(self, position: int) -> int:
        """Where the window at this output position begins; negative in the padding."""
        return position * self.stride - self.padding


def axes(
    size: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
) -> tuple[Axis, Axis]:
    """The vertical and the horizontal axis. Lists of one value hold for both, as torch allows."""
    pairs = [list(given) * 2 if len(given) == 1 else list(given) for given in (kernel, stride, padding, dilation)]
    vertical, horizontal = (Axis(size[i], out[i], *(pair[i] for pair in pairs)) for i in range(2))
    return vertical, horizontal
