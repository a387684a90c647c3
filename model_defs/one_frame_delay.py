"""One-frame delay (OFD): MODNet's filter against flicker in a sequence of mattes.

A pixel flickers where the mattes before and after agree and the one between differs from both (MODNet, AAAI 2022,
section "Results on Real-World Data"). Looking one frame ahead is what delays the output by one frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from binmat.errors import InputError, SizeError

#: How far apart two alphas may be and still count as close (xi; the AAAI text gives no number).
THRESHOLD = 0.1


def fix_flicker(before: Tensor, matte: Tensor, after: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """The matte with its flickering pixels replaced by the mean of their neighbours in time.

    With xi = threshold, elementwise:

        flicker = |before - after| <= xi  and  |matte - before| > xi  and  |matte - after| > xi
        out     = (before + after) / 2 where flicker, else matte

    before, matte, after: three consecutive mattes in [0, 1], all of one shape; out has that shape.
    """
    flicker = (
        ((before - after).abs() <= threshold)
        & ((matte - before).abs() > threshold)
        & ((matte - after).abs() > threshold)
    )
    return torch.where(flicker, (before + after) / 2, matte)


class OneFrameDelay:
    """OFD frame by frame, one frame late and with two mattes in memory.

    Every matte is compared with the unfiltered ones beside it. The first and the last have one neighbour only and stay
    as they are. Raises InputError for a threshold outside [0, 1].

    Mattes: [B, 1, H, W] in [0, 1]. Call :meth:`push` with each, then :meth:`flush` once at the end of the clip:

        ofd = OneFrameDelay()
        for matte in mattes:
            if (ready := ofd.push(matte)) is not None:
                write(ready)
        if (ready := ofd.flush()) is not None:
            write(ready)
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        if not 0 <= threshold <= 1:
            raise InputError(f"the one-frame delay's threshold is {threshold}: give a difference of alpha from 0 to 1")
        self.threshold = threshold
        self._before: Tensor | None = None
        self._waiting: Tensor | None = None

    def push(self, matte: Tensor) -> Tensor | None:
        """Take the next matte; return the finished one before it, None for the first of a clip.

        Raises SizeError where the matte's shape differs from the one before.
        """
        before, waiting = self._before, self._waiting
        if waiting is not None and waiting.shape != matte.shape:
            raise SizeError(
                f"a matte of shape {list(matte.shape)} follows one of {list(waiting.shape)}: "
                "call flush() before the first frame of another clip"
            )
        self._before, self._waiting = waiting, matte
        if before is None or waiting is None:
            return waiting
        return fix_flicker(before, waiting, matte, self.threshold)

    def flush(self) -> Tensor | None:
        """Return the last matte of the clip (None where none was pushed) and start anew."""
        last = self._waiting
        self._before = self._waiting = None
        return last
