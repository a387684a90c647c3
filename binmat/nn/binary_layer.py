"""What the binary convolution and the binary linear layer share: latent weights, scheme, deployment accessors."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from binmat.quantizers.scheme import Scheme


class BinaryLayer(nn.Module):
    """A layer with latent float weights ``weight`` [O, I, ...] that computes with one bit of each.

    Parameters beside the float layer's: ``threshold`` [1] or [I], starting at 0, where the scheme learns thresholds;
    ``scale`` [O] where it learns the scale. Both are None otherwise.

    ``progress`` in [0, 1] is how far the training is (ReCU's schedule reads it; see :func:`binmat.nn.set_progress`).
    It changes no output, so it is not part of the state_dict.

    The accessors read the parameters as they are now; nothing is cached.
    """

    is_leaf: ClassVar[bool] = True

    weight: Tensor
    threshold: nn.Parameter | None
    scale: nn.Parameter | None
    scheme: Scheme
    progress: float

    def binary_weight(self) -> Tensor:
        """int8 +-1 in the shape of ``weight``."""
        return self._binary_weight().to(torch.int8)

    def output_scale(self) -> Tensor:
        """alpha per output channel, float [O]; ones where the scheme has no scale."""
        if self.scale is not None:
            return self.scale.detach().clone()
        scale = self.scheme.weight.scale_of(self.weight.detach())
        return self.weight.new_ones(self.weight.shape[0]) if scale is None else scale.clone()

    def input_threshold(self) -> Tensor:
        """tau in a = sign(x - tau) (or step(x - tau)), float [1] or [I]; 0 where there is none, DoReFa's 1/2 added."""
        learnt = self.weight.new_zeros(1) if self.threshold is None else self.threshold.detach()
        return learnt + self.scheme.activation.midpoint

    def _set_scheme(self, scheme: Scheme, in_channels: int) -> None:
        """Create the scheme's parameters beside ``weight``, in its dtype and on its device."""
        self.scheme = scheme
        self.progress = 0.0
        per_input = {"none": 0, "layer": 1, "channel": in_channels}[scheme.activation.threshold]
        threshold = nn.Parameter(self.weight.new_zeros(per_input)) if per_input else None
        learnable = scheme.weight.scale == "learnable"
        scale = nn.Parameter(scheme.weight.initial_scale(self.weight)) if learnable else None
        self.register_parameter("threshold", threshold)
        self.register_parameter("scale", scale)

    def _binary_weight(self) -> Tensor:
        return self.scheme.weight.binarize(self.weight.detach())

    def _scaled_weight(self) -> Tensor:
        return self.scheme.weight.scaled(self.weight, self.scale, self.progress)
