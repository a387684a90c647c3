"""Backpropagating refinement (BRM): fit a network's decoder to one image's trimap, without touching its weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from binmat.errors import InputError
from binmat.progress import Progress, silent

from .network import Network
from .trimap_network import alpha_alone

STEPS = 100
LEARNING_RATE = 20.0

#: Weight of the preservation loss C2 beside the edge loss C1 (Eq. 2).
PRESERVATION = 0.1

#: Decoders of LSA-Matting whose output is refined, in the order in which they run -> channels of that output.
LEVELS: Mapping[int, int] = {5: 512, 4: 256, 3: 128, 2: 64}


def refine(
    network: Network,
    x: Tensor,
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    progress: Progress = silent,
) -> Tensor:
    """Alpha [N, 1, H, W] in [0, 1] after backpropagating refinement of each image by itself.

    network: LSA-Matting in eval mode, float or converted: its modes are ``encode`` (x -> features) and ``decode``
    (features and an A and a B for each of :data:`LEVELS` -> alpha). Its parameters get no gradient.
    x: [N, 4, H, W], the network's input. The trimap is read from the fourth channel: below 0.25 background, above 0.75
    foreground.
    steps: how many times the decoder runs. Its last result is the answer, so there are steps - 1 updates.
    progress: called with (decodes done, decodes to do).

    The output of decoder l becomes exp(I(A)) * output + I(B), where A and B are [N, C, 2^(8-l), 2^(8-l)], start at 0
    and are resized (I) bicubically. Plain gradient descent on A and B minimises C1 + 0.1 C2, alpha clamped to [0, 1]:

        C1 = (sum over dF of (1 - alpha)^2 + sum over dB of alpha^2) / (|dF| + |dB| + 0.2)
        C2 = (mean over the unknown region of |alpha - alpha_0|)^2

    dF and dB are the unknown pixels with a foreground or a background pixel among their 8 neighbours, alpha_0 is the
    result without refinement, not clamped. Source: Wang et al., "Improving Deep Image Matting via Local Smoothness
    Assumption", section 4.3 and Eq. 2; the edges on the unknown side only, the bicubic resizing and the 0.2 are the
    official implementation's. The encoder runs once, the decoder ``steps`` times. Raises InputError for steps < 1.
    """
    if steps < 1:
        raise InputError(f"refinement needs at least 1 step, not {steps}: leave it out to get the network's own alpha")
    regions = Regions(x[:, 3:4])
    with torch.no_grad():
        features = network.run("encode", x)
    corrections = [tensor.requires_grad_() for tensor in (*zero_corrections(x), *zero_corrections(x))]
    unrefined: Tensor | None = None
    frozen = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        for step in range(1, steps):
            with torch.enable_grad():
                alpha = alpha_alone(network.run("decode", *features, *corrections))
                if unrefined is None:
                    unrefined = alpha.detach()
                gradients = torch.autograd.grad(regions.loss(alpha.clamp(0, 1), unrefined), corrections)
            with torch.no_grad():
                for tensor, gradient in zip(corrections, gradients, strict=True):
                    tensor.sub_(gradient, alpha=learning_rate)
            progress(step, steps)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    with torch.no_grad():
        alpha = alpha_alone(network.run("decode", *features, *corrections))
    progress(steps, steps)
    return alpha.clamp(0, 1)


def zero_corrections(like: Tensor) -> list[Tensor]:
    """A (or B) of each level in :data:`LEVELS`: zeros [N, C, 2^(8-l), 2^(8-l)] with the batch and type of ``like``."""
    return [
        like.new_zeros(like.shape[0], channels, 2 ** (8 - level), 2 ** (8 - level))
        for level, channels in LEVELS.items()
    ]


class Regions:
    """The parts of a trimap [N, 1, H, W] in [0, 1] that the losses look at, as 0/1 masks."""

    def __init__(self, trimap: Tensor) -> None:
        foreground, background = (trimap > 0.75).to(trimap), (trimap < 0.25).to(trimap)
        self.unknown = 1 - foreground - background
        self.foreground_edge = self._beside(foreground)
        self.background_edge = self._beside(background)

    def _beside(self, region: Tensor) -> Tensor:
        """Unknown pixels with a pixel of the region among their 8 neighbours."""
        return F.max_pool2d(region, kernel_size=3, stride=1, padding=1) * self.unknown

    def loss(self, alpha: Tensor, unrefined: Tensor) -> Tensor:
        """C1 + 0.1 C2 of every image, summed over the batch: their gradients do not meet."""

        def total(values: Tensor) -> Tensor:
            return values.sum((1, 2, 3))

        edge = total((1 - alpha) ** 2 * self.foreground_edge) + total(alpha**2 * self.background_edge)
        edge = edge / (total(self.foreground_edge) + total(self.background_edge) + 0.2)
        # An image without unknown pixels has neither edges nor a change to limit: its loss is 0, not 0 / 0.
        change = total((alpha - unrefined).abs() * self.unknown) / total(self.unknown).clamp(min=1)
        return (edge + PRESERVATION * change**2).sum()
