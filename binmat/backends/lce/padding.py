"""Padding of sliding windows: when TFLite's SAME is torch's, and what explicit padding replaces it otherwise."""

from __future__ import annotations

from binmat.backends.lce.emitter import Emitter
from binmat.backends.lce.tflite.schema import Padding
from binmat.backends.lce.values import Value
from binmat.transforms.lowering.windows import Axis


def is_same(axis: Axis) -> bool:
    """Whether TFLite's SAME puts the windows where torch does."""
    out = -(-axis.size // axis.stride)
    total = max((out - 1) * axis.stride + axis.reach - axis.size, 0)
    return out == axis.out and total // 2 == axis.padding


def padded(e: Emitter, value: Value, windows: tuple[Axis, Axis], fill: float) -> Value:
    """The value with `fill` around it, as much as the windows reach over it. Its windows are then VALID."""
    before = [0, 0, *(axis.padding for axis in windows)]
    after = [0, 0, *(max(axis.after, 0) for axis in windows)]
    return e.pad(value, before, after, fill)


def with_zero_padding(e: Emitter, value: Value, windows: tuple[Axis, Axis]) -> tuple[Value, Padding]:
    """The cheapest exact zero padding: none, TFLite's own, or an explicit one."""
    if all(axis.padding == 0 and axis.after <= 0 for axis in windows):
        return value, Padding.VALID
    if all(map(is_same, windows)):
        return value, Padding.SAME
    return padded(e, value, windows, 0.0), Padding.VALID
