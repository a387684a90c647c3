"""Where a clip's mattes are written: one file each, or one video of each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch import Tensor

from binmat.data.clip import Clip
from binmat.data.image import write_image
from binmat.data.video import video_writer

#: (number of the frame, kind such as alpha, picture [1, C, H, W]).
Write = Callable[[int, str, Tensor], None]


@contextmanager
def matte_files(folder: Path, clip: Clip, written: list[Path]) -> Iterator[Write]:
    """A function that writes one picture of one frame; the files' paths are added to the list.

    KIND.png for an image, KIND/NAME.png for a folder's, KIND.mp4 for a video, at its frame rate.
    """
    with ExitStack() as open_files:
        writers: dict[str, Callable[[Tensor], None]] = {}

        def write(number: int, kind: str, picture: Tensor) -> None:
            if clip.video is not None:
                path = folder / f"{kind}.mp4"
                if kind not in writers:
                    writers[kind] = open_files.enter_context(video_writer(path, clip.video.rate))
                    written.append(path)
                writers[kind](picture)
                return
            path = folder / kind / f"{clip.paths[number].stem}.png" if clip.path.is_dir() else folder / f"{kind}.png"
            path.parent.mkdir(exist_ok=True)
            write_image(picture, path)
            written.append(path)

        yield write
