"""The base class of the networks that need a trimap of each image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

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
