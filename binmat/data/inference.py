"""Run a matting network on an image or on the frames of a clip, and composite the result over a background."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from binmat.errors import InputError
from binmat.model_defs.network import Network, Prediction
from binmat.model_defs.network_option import check_options
from binmat.model_defs.one_frame_delay import THRESHOLD, OneFrameDelay
from binmat.progress import Progress, silent

from .image import read_image, read_values, to_rgb, to_values

#: The default background of a composite.
GREEN = (120 / 255, 1.0, 155 / 255)


def matte(
    network: Network,
    image: str | Path | Image.Image | Tensor,
    *,
    trimap: str | Path | Image.Image | npt.NDArray[Any] | Tensor | None = None,
    background: str | Path | Image.Image | Tensor | None = None,
    downsample_ratio: float = 1.0,
    one_frame_delay: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Tensor:
    """The alpha matte [1, 1, H, W] in [0, 1] of one image, or [T, 1, H, W] of the T frames of a clip.

    >>> import binmat
    >>> from binmat.model_defs.registry import build
    >>> binmat.matte(build("rvm_mobilenetv3"), torch.rand(3, 32, 48)).shape
    torch.Size([1, 1, 32, 48])
    >>> binmat.matte(build("modnet"), torch.rand(5, 3, 32, 64), one_frame_delay=True).shape
    torch.Size([5, 1, 32, 64])

    image: a path, a Pillow image, or a tensor [3, H, W] or [T, 3, H, W] in [0, 1]. States are carried from frame to
    frame. trimap: likewise, one channel of any values that :func:`binmat.model_defs.trimap.read_trimap` reads; of a
    clip a tensor or array [T, 1, H, W], one for each frame. background: the same scene without its subject, a picture,
    for the networks that need it (bgmv2). one_frame_delay: filter flicker of single frames out of a clip, see
    :func:`binmat.model_defs.one_frame_delay.fix_flicker`. progress: called by networks that compute one image in
    several steps. options: those that the network declares in its ``options``, such as ``refinement_steps``
    of lsa_matting or ``path`` and ``cost_limit`` of pam. Warns where the input is unusual. Raises InputError,
    SizeError, and UnknownNameError for an option that the network does not have.
    """
    clip = _as_tensor(image)
    predictions = matte_frames(
        network,
        clip.split(1),
        trimaps=None if trimap is None else _as_trimaps(trimap, len(clip)),
        background=None if background is None else _as_picture(background),
        downsample_ratio=downsample_ratio,
        progress=progress,
        **options,
    )
    mattes = list(without_flicker(predictions) if one_frame_delay else predictions)
    for note in dict.fromkeys(note for prediction in mattes for note in prediction.notes):
        warnings.warn(note, stacklevel=2)
    return torch.cat([prediction.alpha for prediction in mattes])


def matte_frames(
    network: Network,
    frames: Iterable[Tensor],
    *,
    trimaps: Iterable[Tensor] | None = None,
    background: Tensor | None = None,
    downsample_ratio: float = 1.0,
    progress: Progress = silent,
    **options: Any,
) -> Iterator[Prediction]:
    """Predictions for consecutive frames [1, 3, H, W] of one size, with the states carried from frame to frame.

    >>> from binmat.model_defs.registry import build
    >>> predictions = matte_frames(build("rvm_mobilenetv3"), torch.rand(2, 1, 3, 32, 48))
    >>> [prediction.foreground.shape for prediction in predictions]
    [torch.Size([1, 3, 32, 48]), torch.Size([1, 3, 32, 48])]

    The network is put in evaluation mode. trimaps: one for each frame. background: [1, 3, H, W], the scene of all
    frames without its subject. progress, options: as for :func:`matte`. Raises at once UnknownNameError for an option
    that the network does not have and InputError for a background that it does not take. Raises InputError where the
    size changes within the clip and where there is not a trimap for each frame.
    """
    check_options(network.name, network.options, options)
    if network.takes_background:
        options["background"] = None if background is None else background.to(next(network.parameters()))
    elif background is not None:
        raise InputError(f"{network.name} takes no background: leave it out")
    network.eval()
    options |= {"downsample_ratio": downsample_ratio, "progress": progress}
    return _predictions(network, frames, trimaps, options)


def _predictions(
    network: Network, frames: Iterable[Tensor], trimaps: Iterable[Tensor] | None, options: Mapping[str, Any]
) -> Iterator[Prediction]:
    memory: Any = None
    size: tuple[int, int] | None = None
    for number, (frame, trimap) in enumerate(zip_longest(frames, () if trimaps is None else trimaps)):
        if frame is None:
            raise InputError("there are more trimaps than frames: pass one for each")
        if trimap is None and trimaps is not None:
            raise InputError(f"there are {number} trimaps and more frames: pass one for each")
        height, width = frame.shape[2:]
        if size is not None and size != (height, width):
            raise InputError(
                f"a clip's frames have one size: {height}x{width} follows {size[0]}x{size[1]}; matte them apart"
            )
        size = height, width
        parameter = next(network.parameters())
        with torch.no_grad():
            prediction = network.predict(frame.to(parameter.device, parameter.dtype), memory, trimap=trimap, **options)
        memory = prediction.memory
        yield prediction


def without_flicker(predictions: Iterable[Prediction], threshold: float = THRESHOLD) -> Iterator[Prediction]:
    """The same predictions with alpha filtered by the one-frame delay: each is yielded once the next is there.

    threshold: see :func:`binmat.model_defs.one_frame_delay.fix_flicker`.
    """
    delay = OneFrameDelay(threshold)
    waiting: Prediction | None = None
    for prediction in chain(predictions, [None]):
        ready = delay.flush() if prediction is None else delay.push(prediction.alpha)
        if waiting is not None and ready is not None:
            yield replace(waiting, alpha=ready)
        waiting = prediction


def composite(prediction: Prediction, image: Tensor, background: Tensor | None = None) -> Tensor:
    """alpha F + (1 - alpha) B, [1, 3, H, W] in [0, 1].

    F: the predicted foreground, or the image where the network predicts none. B: the background, by default GREEN.
    """
    foreground = image if prediction.foreground is None else prediction.foreground
    if background is None:
        background = torch.tensor(GREEN, dtype=foreground.dtype, device=foreground.device).view(1, 3, 1, 1)
    return prediction.alpha * foreground + (1 - prediction.alpha) * background


def _as_tensor(image: str | Path | Image.Image | Tensor) -> Tensor:
    if isinstance(image, Tensor):
        tensor = image[None] if image.dim() == 3 else image
        if tensor.dim() != 4 or tensor.shape[0] < 1 or tensor.shape[1] != 3:
            raise InputError(f"an image tensor is [3, H, W], a clip's [T, 3, H, W], not {list(image.shape)}")
        return tensor
    return to_rgb(image) if isinstance(image, Image.Image) else read_image(image)


def _as_picture(image: str | Path | Image.Image | Tensor) -> Tensor:
    tensor = _as_tensor(image)
    if len(tensor) != 1:
        raise InputError(f"the background is one picture, [3, H, W] or [1, 3, H, W], not {list(tensor.shape)}")
    return tensor


def _as_trimaps(trimap: str | Path | Image.Image | npt.NDArray[Any] | Tensor, frames: int) -> Sequence[Tensor]:
    if isinstance(trimap, (str, Path)):
        return [read_values(trimap)]
    values = to_values(trimap) if isinstance(trimap, Image.Image) else torch.as_tensor(trimap)
    return values.split(1) if frames > 1 and values.dim() == 4 else [values]
