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
    example. network: may say what its inputs are for a picture. If it does not, each float input [1, C, H, W] takes the
    picture's colour channels, over and over where it has other than three.

    Float inputs of any other shape take noise in both clips; a call without an input [1, C, H, W] has the clip
    ``noise`` alone. Integer and boolean inputs keep the example's values. Raises ExportError where pictures are given
    and no input can show them.
    """
    first = list(islice(pictures, FRAMES))
    inputs = {n: v for n, v in example.inputs.items() if isinstance(v, Tensor) and n not in example.states}
    images = {n: v for n, v in inputs.items() if v.is_floating_point() and v.dim() == 4 and v.shape[0] == 1}
    noise = _noise(inputs)
    if not images:
        if first:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
            raise ExportError(f"the call takes {shapes}, not images [1, C, H, W]: leave the pictures out")
        return {"noise": noise}
    height, width = next(iter(images.values())).shape[2:]
    say = network.frame_inputs if isinstance(network, Network) else lambda picture: {}
    shown = [say(picture) or _colours(images, picture) for picture in _moving(first, height, width)]
    frames = [{**other, **seen} for other, seen in zip(noise, shown, strict=True)]
    return {"clip" if first else "photograph": frames, "noise": noise}


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


def _noise(inputs: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Noise in [0, 1] for the floats; integers and booleans may be indices and masks, and stay as they are."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            name: torch.rand(like.shape, generator=generator, dtype=like.dtype) if like.is_floating_point() else like
            for name, like in inputs.items()
        }
        for _ in range(FRAMES)
    ]
