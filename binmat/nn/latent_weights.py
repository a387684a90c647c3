"""What a training loop does to the binary layers of a network between optimizer steps."""

from __future__ import annotations

import torch
from torch import nn

from binmat.nn.binary_layer import BinaryLayer


def set_progress(module: nn.Module, fraction: float) -> None:
    """Tell every binary layer under ``module`` how far the training is: ``fraction`` = t / T in [0, 1].

    ReCU's quantile follows it; the other schemes do not care. Call it once per epoch or step. Raises ValueError
    outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"training progress is a fraction in [0, 1], not {fraction}")
    for layer in module.modules():
        if isinstance(layer, BinaryLayer):
            layer.progress = float(fraction)


@torch.no_grad()
def clip_latent_weights(module: nn.Module) -> None:
    """Clip to [-1, 1], in place, the latent weights of every binary layer whose scheme asks for it (bnn).

    Call it after each optimizer step: outside [-1, 1] the clip estimator passes no gradient, so a weight that strays
    there would never come back (Hubara et al. 2016).
    """
    for layer in module.modules():
        if isinstance(layer, BinaryLayer) and layer.scheme.weight.clip_latent:
            layer.weight.clamp_(-1, 1)
