"""Videos as tensors: frames are read one by one, H.264 files are written atomically."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from binmat.atomic_write import atomic_write
from binmat.errors import InputError, MissingExtraError

from .image import to_bytes

#: A path with one of these suffixes is a video.
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
#: x264's constant rate factor: a matte's soft edges must survive.
_QUALITY = "10"
_DEFAULT_RATE = Fraction(30)


@dataclass(frozen=True)
class Video:
    """The first video stream of a file. rate: average frames per second. count: number of frames, 0 where unknown."""

    path: Path
    rate: Fraction
    count: int

    def frames(self) -> Iterator[Tensor]:
        """RGB [1, 3, H, W] float32 in [0, 1], upright, one frame in memory at a time. Raises InputError."""
        for pixels in self._decoded("rgb24"):
            yield pixels.permute(2, 0, 1)[None].float() / 255

    def values(self) -> Iterator[Tensor]:
        """Grey uint8 [H, W], for trimaps. Raises InputError."""
        return self._decoded("gray")

    def _decoded(self, format: str) -> Iterator[Tensor]:
        av = _load_av()
        try:
            with av.open(str(self.path)) as container:
                for frame in container.decode(video=0):
                    pixels = torch.from_numpy(frame.to_ndarray(format=format))
                    yield torch.rot90(pixels, frame.rotation // 90 % 4).contiguous()
        except (OSError, av.error.FFmpegError) as error:
            raise InputError(f"video {self.path} cannot be decoded: {error}") from error


def open_video(path: str | Path) -> Video:
    """Read a video's header. Raises InputError, MissingExtraError without PyAV."""
    path = Path(path)
    av = _load_av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} holds no video: name one that does, or a folder of frames")
            stream = container.streams.video[0]
            return Video(path, stream.average_rate or _DEFAULT_RATE, stream.frames)
    except FileNotFoundError as error:
        raise InputError(f"no such video: {path}") from error
    except (OSError, av.error.FFmpegError) as error:
        raise InputError(f"{path} cannot be read as a video: {error}") from error


@contextmanager
def video_writer(path: str | Path, rate: Fraction) -> Iterator[Callable[[Tensor], None]]:
    """A function that adds a frame [1, 1 or 3, H, W] in [0, 1] to a new H.264 file, .mp4.

    All frames have one size. Colours have half the resolution, as players expect, unless a side is odd. The file
    appears when the block ends without an error. Raises InputError, MissingExtraError without PyAV.
    """
    av = _load_av()
    path = Path(path)
    stream: Any = None
    try:
        with atomic_write(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:

            def write(picture: Tensor) -> None:
                nonlocal stream
                height, width = picture.shape[2:]
                if stream is None:
                    stream = container.add_stream("libx264", rate=rate, options={"crf": _QUALITY})
                    stream.width, stream.height = width, height
                    stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
                levels = to_bytes(picture[0].expand(3, -1, -1)).contiguous().numpy()
                frame = av.VideoFrame.from_ndarray(levels, format="rgb24")
                container.mux(stream.encode(frame))

            yield write
            if stream is not None:
                container.mux(stream.encode())
    except (OSError, av.error.FFmpegError) as error:
        raise InputError(f"video {path} cannot be written: {error}") from error


def _load_av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("reading and writing videos", "video", "av") from error
    return av
