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
from binmat.errors import InputError, MissingExtraError, first_line

from .image import LARGEST, to_bytes
from .regular_file import check_regular_file

#: A path with one of these suffixes is a video.
SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
#: x264's constant rate factor: a matte's soft edges must survive.
_QUALITY = "10"
_DEFAULT_RATE = Fraction(30)
#: A video whose frames end so much earlier than its header says, in seconds, breaks off. Rounding and a last frame that
#: is shown for longer stay below.
_MISSING = 0.5
#: FFmpeg would take a name such as http:... or concat:... for an address, and open further files that a playlist names.
_ONLY_THIS_FILE = {"protocol_whitelist": "file", "format_whitelist": "mov,matroska,avi"}


class BrokenVideoError(InputError):
    """A video that breaks off after some frames."""


@dataclass(frozen=True)
class Video:
    """The first video stream of a file, as its header has it.

    rate: average frames per second. count: number of frames, 0 where unknown. seconds: its length, 0 where unknown.
    """

    path: Path
    rate: Fraction
    count: int
    seconds: float

    def frames(self) -> Iterator[Tensor]:
        """RGB [1, 3, H, W] float32 in [0, 1], upright, one frame in memory at a time.

        Raises InputError, and BrokenVideoError after the last frame where more were promised.
        """
        for pixels in self._decoded("rgb24"):
            yield pixels.permute(2, 0, 1)[None].float() / 255

    def values(self) -> Iterator[Tensor]:
        """Grey uint8 [H, W], for trimaps. Raises as :meth:`frames` does."""
        return self._decoded("gray")

    def _decoded(self, format: str) -> Iterator[Tensor]:
        done, end = 0, 0.0
        try:
            with _opened(self.path) as (container, stream):
                for packet in container.demux():
                    if packet.pts is not None:
                        end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                    for frame in packet.decode() if packet.stream.index == stream.index else ():
                        pixels = torch.from_numpy(frame.to_ndarray(format=format))
                        yield torch.rot90(pixels, frame.rotation // 90 % 4).contiguous()
                        done += 1
                # A file of the QuickTime family says where it is cut, and may show less than it holds.
                says_so = container.format.name.startswith("mov")
                promised = end if says_so else max(self.seconds, float(self.count / self.rate))
        except InputError as error:
            if not done:
                raise
            lost = (self.count or round(self.seconds * self.rate)) - done
            raise BrokenVideoError(_broken(self.path, done, lost)) from error
        if promised - end > _MISSING:
            raise BrokenVideoError(_broken(self.path, done, round((promised - end) * self.rate)))


def open_video(path: str | Path) -> Video:
    """Read a video's header. Raises InputError, MissingExtraError without PyAV."""
    path = Path(path)
    with _opened(path) as (container, stream):
        rate = stream.average_rate or _DEFAULT_RATE
        return Video(path, rate, stream.frames, (container.duration or 0) / 1e6)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream. What FFmpeg raises in the block becomes an InputError of one line."""
    av = _load_av()
    check_regular_file(path, "video")
    try:
        with av.open(f"file:{path}", container_options=_ONLY_THIS_FILE) as container:
            if not container.streams.video:
                raise InputError("it holds no video: name one that does, or a folder of frames")
            stream = container.streams.video[0]
            if stream.width * stream.height > LARGEST:
                raise InputError(f"more than {LARGEST:,} pixels: {stream.height}x{stream.width}")
            yield container, stream
    # For data that does not fit together PyAV raises other errors than its own: ValueError, IndexError, ...
    except Exception as error:
        fault = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{path} cannot be read as a video: {fault}") from error


def _broken(path: Path, done: int, lost: int) -> str:
    how_many = f"about {lost} more are lost" if lost > 0 else "what followed is lost"
    return f"video {path} breaks off after {done} frame{'s' * (done > 1)}: {how_many}"


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
        with atomic_write(path) as temporary, av.open(f"file:{temporary}", "w", format="mp4") as container:

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
