"""Run a matting network on an image or on the frames of a clip, and compose the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from binmat.errors import InputError
from binmat.model_defs.network import Network, Prediction

from .image import read_grey, read_image, to_rgb

#: The green that composites are laid on.
GREEN = (120 / 255, 1.0, 155 / 255)


def matte(
    network: Network,
    image: str | Path | Image.Image | Tensor,
    *,
    trimap: str | Path | Tensor | None = None,
    downsample_ratio: float = 1.0,
) -> Tensor:
    """The alpha matte [1, 1, H, W] in [0, 1] of one image.

    image: a path, a Pillow image, or a tensor [3, H, W] or [1, 3, H, W] in [0, 1]. trimap: likewise, one channel.
    Raises InputError and SizeError.
    """
    known = read_grey(trimap) if isinstance(trimap, (str, Path)) else trimap
    frames = matte_frames(network, [_as_tensor(image)], trimaps=[known], downsample_ratio=downsample_ratio)
    return next(frames).alpha


def matte_frames(
    network: Network,
    frames: Iterable[Tensor],
    *,
    trimaps: Iterable[Tensor | None] = repeat(None),
    downsample_ratio: float = 1.0,
) -> Iterator[Prediction]:
    """Predictions for consecutive frames [1, 3, H, W] of one size, states carried along.

    The network is put in evaluation mode. Raises InputError where the size changes within the clip.
    """
    network.eval()
    memory, size = None, None
    for frame, trimap in zip(frames, trimaps, strict=False):
        if size is not None and frame.shape[2:] != size:
            raise InputError(
                f"a clip's frames have one size: {_size(frame)} follows {size[0]}x{size[1]}; matte them apart"
            )
        size = frame.shape[2:]
        parameter = next(network.parameters())
        with torch.no_grad():
            prediction = network.predict(
                frame.to(parameter.device, parameter.dtype), memory, trimap=trimap, downsample_ratio=downsample_ratio
            )
        memory = prediction.memory
        yield prediction


def composite(prediction: Prediction, image: Tensor, background: Tensor | None = None) -> Tensor:
    """alpha F + (1 - alpha) B, [1, 3, H, W]; F is the image where the network predicts no foreground, B GREEN."""
    foreground = image if prediction.foreground is None else prediction.foreground
    if background is None:
        background = torch.tensor(GREEN, dtype=foreground.dtype, device=foreground.device).view(1, 3, 1, 1)
    return prediction.alpha * foreground + (1 - prediction.alpha) * background


def _as_tensor(image: str | Path | Image.Image | Tensor) -> Tensor:
    if isinstance(image, Tensor):
        tensor = image[None] if image.dim() == 3 else image
        if tensor.dim() != 4 or tensor.shape[:2] != (1, 3):
            raise InputError(f"an image tensor is [3, H, W] or [1, 3, H, W], not {list(image.shape)}")
        return tensor
    return to_rgb(image) if isinstance(image, Image.Image) else read_image(image)


def _size(frame: Tensor) -> str:
    return f"{frame.shape[2]}x{frame.shape[3]}"
