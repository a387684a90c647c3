"""Weight methods: what becomes of the latent weights before their signs are taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from binmat.quantizers import recu


@dataclass(frozen=True)
class WeightMethod:
    """One weight method, in two differentiable steps that keep the shape [O, ...].

    source: w to v, the weight that the scale is measured of.
    signed: (v, the training's progress in [0, 1]) to the number whose sign is taken.
    """

    source: Callable[[Tensor], Tensor]
    signed: Callable[[Tensor, float], Tensor] = lambda source, progress: source


def centred(weight: Tensor) -> Tensor:
    """w minus its mean per output channel; [O, ...] to the same shape. Differentiable."""
    return weight - weight.flatten(1).mean(1).view(-1, *[1] * (weight.dim() - 1))


WEIGHT_METHODS: dict[str, WeightMethod] = {
    "sign": WeightMethod(lambda weight: weight),
    "centred": WeightMethod(centred),
    "recu": WeightMethod(centred, recu.clamped),
}
