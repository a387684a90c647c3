"""The clips that a model file is verified on: consecutive frames of a photograph, of noise, or of a video."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from binmat.data.image import photograph, resize
from binmat.errors import ExportError
from binmat.model_defs.network import Example, Network

#: For each frame of a clip its inputs by name, without states.
Frames = Sequence[Mapping[str, Tensor]]
#: Name of a clip -> its frames.
Clips = Mapping[str, Frames]

#: Frames per clip: the second one sees the states of the first.
FRAMES = 2
#: Pixels by which a still picture moves from frame to frame.
_STEP = 8


def clips_of(example: Example, pictures: Iterable[Tensor] = (), network: nn.Module | None = None) -> Clips:
    """Two frames of pictures, named ``clip``, and two of noise in [0, 1], named ``noise``.

    pictures: of a video, [1, 3, H, W] in [0, 1]; the first two are used. A single picture moves to the left. Without
    any, binmat's photograph does, and the clip is named ``photograph``. Pictures are resized to the size of the
    example. network: may say what its inputs are for a picture. If it does not, each input takes the picture's colour
    channels, over and over where it has other than three. Raises ExportError for an input that is not [1, C, H, W].
    """
    first = list(islice(pictures, FRAMES))
    images = _images(example)
    height, width = next(iter(images.values())).shape[2:] if images else (0, 0)
    say = network.frame_inputs if isinstance(network, Network) else lambda picture: {}
    frames = [say(picture) or _colours(images, picture) for picture in _moving(first, height, width)]
    return {"clip" if first else "photograph": frames, "noise": _noise(images)}


def _moving(first: list[Tensor], height: int, width: int) -> Iterator[Tensor]:
    wide = width + _STEP * (FRAMES - 1)
    whole = resize(first[0], height, wide) if first else photograph(height, wide)
    for index in range(FRAMES):
        if len(first) == FRAMES:
            yield resize(first[index], height, width)
        else:
            yield whole[..., _STEP * index : _STEP * index + width].contiguous()


def _colours(images: Mapping[str, Tensor], picture: Tensor) -> dict[str, Tensor]:
    return {
        name: resize(picture, like.shape[2], like.shape[3])[:, [c % 3 for c in range(like.shape[1])]].contiguous()
        for name, like in images.items()
    }


def _noise(images: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {name: torch.rand(like.shape, generator=generator, dtype=like.dtype) for name, like in images.items()}
        for _ in range(FRAMES)
    ]


def _images(example: Example) -> dict[str, Tensor]:
    """The inputs that every frame brings along: the tensors that are not states."""
    images = {n: v for n, v in example.inputs.items() if isinstance(v, Tensor) and n not in example.states}
    if not all(value.dim() == 4 and value.shape[0] == 1 for value in images.values()):
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in images.items())
        raise ExportError(f"the call takes {shapes}, not images [1, C, H, W]: pass clips with its inputs")
    return images
