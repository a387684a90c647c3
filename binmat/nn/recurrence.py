"""Recurrence over time: the only layers that tell clips from frames."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from binmat.errors import SizeError


class Recurrent(nn.Module):
    """Base of every recurrent layer: a step per frame, looped over the clip.

    Everywhere else time is folded into the batch: frame ``t`` of clip ``b`` is row ``b * T + t``. A subclass defines
    :meth:`step`, which must be traceable by torch.fx; the loop is not, so tracing treats the layer as a leaf.
    """

    is_leaf: ClassVar[bool] = True

    def step(self, x: Tensor, h: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        """One frame of every clip: x, h and context are [B, ...]; returns (output [B, ...], new state [B, ...])."""
        raise NotImplementedError(f"{type(self).__name__} must define its step")

    def forward(self, x: Tensor, h: Tensor, *context: Tensor) -> tuple[Tensor, Tensor]:
        """Run over the clips.

        x: [B*T, ...]; h: [B, ...], the state before the first frame; context: more tensors [B*T, ...] that each step
        sees. Returns (outputs [B*T, ...], the state after the last frame [B, ...]). Raises SizeError where the rows of
        x are no multiple of the states.
        """
        rows, batch = x.shape[0], h.shape[0]
        if rows == batch:
            return self.step(x, h, *context)
        if batch == 0 or rows == 0 or rows % batch:
            raise SizeError(
                f"{rows} frames cannot be split among the states of {batch} clips: "
                "pass states whose batch size is the number of clips, or none"
            )
        outputs: list[Tensor] = []
        frames: list[Any] = [v.unflatten(0, (batch, rows // batch)).unbind(1) for v in (x, *context)]
        for frame in zip(*frames, strict=True):
            out, h = self.step(frame[0], h, *frame[1:])
            outputs.append(out)
        return torch.stack(outputs, dim=1).flatten(0, 1), h
