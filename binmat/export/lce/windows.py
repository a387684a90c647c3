"""Sliding windows: when TFLite's SAME padding is torch's, and what explicit padding replaces it otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from binmat.export.lce.emitter import Emitter
from binmat.export.lce.values import Value
from binmat.export.tflite.schema import Padding


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
    def same(self) -> bool:
        """Whether TFLite's SAME puts the windows where torch does."""
        out = -(-self.size // self.stride)
        total = max((out - 1) * self.stride + self.reach - self.size, 0)
        return out == self.out and total // 2 == self.padding

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


def padded(e: Emitter, value: Value, windows: tuple[Axis, Axis], fill: float) -> Value:
    """The value with `fill` around it, as much as the windows reach over it. Its windows are then VALID."""
    before = [0, 0, *(axis.padding for axis in windows)]
    after = [0, 0, *(max(axis.after, 0) for axis in windows)]
    return e.pad(value, before, after, fill)


def with_zero_padding(e: Emitter, value: Value, windows: tuple[Axis, Axis]) -> tuple[Value, Padding]:
    """The cheapest exact zero padding: none, TFLite's own, or an explicit one."""
    if all(axis.padding == 0 and axis.after <= 0 for axis in windows):
        return value, Padding.VALID
    if all(axis.same for axis in windows):
        return value, Padding.SAME
    return padded(e, value, windows, 0.0), Padding.VALID
