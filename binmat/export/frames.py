"""What an exported model is verified on: consecutive frames of a photograph, of noise, or of a clip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor

from binmat.data.image import photograph, resize
from binmat.errors import ExportError
from binmat.model_defs.network import Example

#: Name of a clip -> the inputs of its frames, by name, without states.
Clips = Mapping[str, Sequence[Mapping[str, Tensor]]]

#: Frames per clip: the second one sees the states of the first.
FRAMES = 2
#: Pixels by which a still picture moves from frame to frame.
_STEP = 8


def clips_of(example: Example, pictures: Iterable[Tensor] = ()) -> Clips:
    """Two frames of pictures, named ``clip``, and two of noise in [0, 1], named ``noise``.

    pictures: of a clip, [1, 3, H, W] in [0, 1]; the first two count. A single one moves to the left, and without any
    binmat's photograph does, named ``photograph``. They are resized to the call's size. An input that has other than
    three channels takes the colours in turn.
    """
    first = list(islice(pictures, FRAMES))
    return {"clip" if first else "photograph": _pictures(example, first), "noise": _noise(example)}


def _pictures(example: Example, first: list[Tensor]) -> list[dict[str, Tensor]]:
    frames: list[dict[str, Tensor]] = [{} for _ in range(FRAMES)]
    for name, like in _images(example).items():
        height, width = like.shape[2:]
        wide = width + _STEP * (FRAMES - 1)
        for index, frame in enumerate(frames):
            if len(first) == FRAMES:
                picture = resize(first[index], height, width)
            else:
                whole = resize(first[0], height, wide) if first else photograph(height, wide)
                picture = whole[..., _STEP * index : _STEP * index + width]
            channels = [channel % picture.shape[1] for channel in range(like.shape[1])]
            frame[name] = picture[:, channels].to(like.dtype).contiguous()
    return frames


def _noise(example: Example) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.rand(like.shape, generator=generator, dtype=like.dtype) for name, like in _images(example).items()}
        for _ in range(FRAMES)
    ]


def _images(example: Example) -> dict[str, Tensor]:
    """The tensors that a frame brings along: inputs that are not states."""
    images = {n: v for n, v in example.inputs.items() if isinstance(v, Tensor) and n not in example.states}
    if not all(value.dim() == 4 and value.shape[0] == 1 for value in images.values()):
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in images.items())
        raise ExportError(f"the call takes {shapes}, not images [1, C, H, W]: pass clips with its inputs")
    return images
