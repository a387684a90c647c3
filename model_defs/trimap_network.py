"""The base class of the networks that need a trimap of each image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from binmat.progress import Progress, silent

from .network import Network, Prediction
from .trimap import Trimap, read_trimap


class TrimapNetwork(Network):
    """A network that needs a trimap: it defines :meth:`estimate`, and :meth:`predict` reads the trimap for it."""

    def estimate(self, image: Tensor, trimap: Trimap, downsample_ratio: float, progress: Progress) -> Prediction:
        """The matte of an image whose trimap is read and fits; the arguments are those of :meth:`predict`.

        The network's :attr:`options` are further keyword arguments. Alpha is the trimap's where that knows it, and a
        trimap without unknown pixels is answered without running the network.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how it mattes an image")

    def settle_coarse(self, alpha: Tensor, trimap: Tensor) -> Tensor:
        """A coarse alpha [N, 1, h, w] with what a one-hot trimap [N, 3, H, W] knows of its cells; the same shape.

        A cell has the mean of its pixels, alpha being that of the unknown ones. A sparse decoder's mask is made of it,
        so that no cell is uncertain where the trimap is not.
        """
        share = F.adaptive_avg_pool2d(trimap, (alpha.shape[2], alpha.shape[3]))
        return share[:, 2:] + share[:, 1:2] * alpha

    def predict(
        self,
        image: Tensor,
        memory: None = None,
        *,
        trimap: Tensor | None = None,
        downsample_ratio: float = 1.0,
        progress: Progress = silent,
        **options: Any,
    ) -> Prediction:
        known = read_trimap(trimap, image.shape[2], image.shape[3])
        prediction = self.estimate(image, known, downsample_ratio, progress, **options)
        return replace(prediction, notes=(*known.remarks, *prediction.notes))


def alpha_alone(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Alpha of what a network returns: alpha, or alpha and a sparse decoder's coarse one."""
    return result[0] if isinstance(result, tuple) else result
