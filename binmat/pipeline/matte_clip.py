"""Matte an image, a folder of frames or a video into files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any

from torch import Tensor

from binmat.atomic_folder import atomic_folder
from binmat.data.clip import Clip, open_clip
from binmat.data.image import cover, note_on_pages, read_image, to_rgb, write_image
from binmat.data.inference import composite, matte_frames, without_flicker
from binmat.data.mask_picture import FrameMask, mask_picture, with_masks
from binmat.data.video import BrokenVideoError, video_writer
from binmat.errors import InputError
from binmat.model_defs.example_inputs import ratio_of
from binmat.model_defs.network import Network
from binmat.pipeline.memory_estimate import check_memory
from binmat.progress import Progress, silent

#: The pictures of a frame, where nothing else is asked. The network may predict no foreground.
KINDS = ("alpha", "foreground", "composite")


@dataclass(frozen=True)
class ClipMatte:
    """What was written and how it was made.

    downsample_ratio: the one that was used. files: in the order in which they were begun. notes: what the user should
    know about how the input was read, each once. details: of each frame, see
    :class:`binmat.model_defs.network.Prediction`. active: of each frame, masked path -> the share of its pixels that a
    sparse-assisted decoder computed; empty without ``show_mask``.
    """

    downsample_ratio: float
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    details: tuple[Mapping[str, str | float], ...]
    active: tuple[Mapping[str, float], ...]


def matte_clip(
    network: Network,
    source: str | Path,
    output: str | Path,
    *,
    trimap: str | Path | None = None,
    background: str | Path | None = None,
    downsample_ratio: float | None = None,
    one_frame_delay: bool = False,
    show_mask: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> ClipMatte:
    """Write alpha, composite and, where the network predicts one, foreground of every frame.

    >>> from tempfile import TemporaryDirectory
    >>> from binmat.data.image import photograph, write_image
    >>> from binmat.model_defs.registry import build
    >>> with TemporaryDirectory() as folder:
    ...     write_image(photograph(32, 48), f"{folder}/photo.png")
    ...     made = matte_clip(build("rvm_mobilenetv3"), f"{folder}/photo.png", f"{folder}/matte")
    >>> [file.name for file in made.files]
    ['alpha.png', 'foreground.png', 'composite.png']

    source: an image, a folder of frames or a video, see :func:`binmat.data.clip.open_clip`. output: a folder, which
    gets all files or, after an error, none; no file that is read may be among them. A file is KIND.png for an image,
    KIND/NAME.png for a folder of frames, and KIND.mp4 for a video, at its frame rate. trimap: in the same form as the
    source, one for each frame. background: an image. For networks that need one (bgmv2) it is the scene without its
    subject, in the frames' size; for all others the composite's background, resized to cover the frame. Composites
    without one are on green. downsample_ratio: by default the one that the network was converted for, else 1.
    one_frame_delay: filter flicker of single frames out of alpha. show_mask: also draw what a sparse-assisted decoder
    computed. progress: called with (frames done, frames); for a single image with (steps done, steps), by networks that
    compute it in several steps. options: as for :func:`binmat.matte`.

    Raises InputError, SizeError, UnknownNameError, and MissingExtraError for a video without PyAV. Where a video breaks
    off, the InputError comes when the frames before are written.
    """
    clip = open_clip(source)
    trimaps = None if trimap is None else open_clip(trimap)
    _check_names(clip, trimaps)
    inputs = [*clip.files, *(trimaps.files if trimaps else ()), *([Path(background)] if background else ())]
    _check_overwrites_none(Path(output), clip, inputs, (*KINDS, "mask") if show_mask else KINDS)
    picture = None if background is None else read_image(background)
    plate, behind = (picture, None) if network.takes_background else (None, picture)
    ratio = ratio_of(network, downsample_ratio)
    for_frames, for_steps = (silent, progress) if clip.count == 1 else (progress, silent)
    broken: list[BrokenVideoError] = []
    images, frames = tee(_that_fit(network, ratio, _until_broken(clip.frames(), broken)))
    predictions = matte_frames(
        network,
        frames,
        trimaps=None if trimaps is None else _until_broken(trimaps.values(), broken),
        background=plate,
        downsample_ratio=ratio,
        progress=for_steps,
        **options,
    )
    written: list[Path] = []
    masks: list[FrameMask] = []
    active: list[Mapping[str, float]] = []
    details: list[Mapping[str, str | float]] = []
    if show_mask:
        predictions = with_masks(network, predictions, masks)
    if one_frame_delay:
        if clip.video is None and not clip.path.is_dir():
            raise InputError(f"one-frame-delay filters a clip, and {clip.path} is one image: leave it out")
        predictions = without_flicker(predictions)
    with atomic_folder(Path(output)) as folder:
        said = [clip.note(), trimaps and trimaps.note(), background and note_on_pages(background)]
        notes = dict.fromkeys(note for note in said if note)
        with _writer(folder, clip, written) as write:
            for number, (prediction, image) in enumerate(zip(predictions, images, strict=False)):
                write(number, "alpha", prediction.alpha)
                if prediction.foreground is not None:
                    write(number, "foreground", prediction.foreground)
                scene = None if behind is None else cover(behind, image.shape[2], image.shape[3])
                write(number, "composite", composite(prediction, image, scene))
                if show_mask:
                    mask = masks.pop(0)  # The delay gives a frame out when the next one's mask is there already.
                    write(number, "mask", to_rgb(mask_picture(image, prediction.alpha, mask)))
                    active.append(mask.levels)
                notes |= dict.fromkeys(prediction.notes)
                details.append(prediction.details)
                for_frames(number + 1, clip.count)
        if not details:
            raise InputError(f"{clip.path} has no frame that can be matted: name another")
        files = tuple(Path(output) / file.relative_to(folder) for file in written)
    if broken:
        raise InputError(f"{broken[0]}; the frames before are in {output}") from broken[0]
    return ClipMatte(ratio, files, tuple(notes), tuple(details), tuple(active))


def _that_fit(network: Network, ratio: float, pictures: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same pictures. Raises SizeError where the first, and so all of them, take too much memory."""
    for number, picture in enumerate(pictures):
        if number == 0:
            check_memory(network, (picture.shape[2], picture.shape[3]), ratio, job="matte")
        yield picture


def _until_broken(pictures: Iterator[Tensor], broken: list[BrokenVideoError]) -> Iterator[Tensor]:
    """The same pictures as long as nothing broke off. What breaks off here ends without an error, which is listed."""
    try:
        while not broken and (picture := next(pictures, None)) is not None:
            yield picture
    except BrokenVideoError as error:
        broken.append(error)


def _place(clip: Clip, kind: str, number: int) -> Path:
    """Where a frame's picture goes in the output folder."""
    if clip.video:
        return Path(f"{kind}.mp4")
    return Path(kind, f"{clip.paths[number].stem}.png") if clip.path.is_dir() else Path(f"{kind}.png")


def _check_overwrites_none(output: Path, clip: Clip, inputs: Sequence[Path], kinds: Sequence[str]) -> None:
    """Raise InputError where a picture would replace one that is read, under whatever name or link."""
    read = {_identity(path) for path in inputs if path.exists()}
    for number in range(len(clip.files)):
        for kind in kinds:
            place = output / _place(clip, kind, number)
            if place.exists() and _identity(place) in read:
                raise InputError(f"{place} is read and would be overwritten: name another folder with -o")


def _identity(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_dev, about.st_ino


def _check_names(clip: Clip, trimaps: Clip | None) -> None:
    taken: dict[str, Path] = {}
    for path in clip.paths:
        other = taken.setdefault(path.stem, path)
        if other is not path:
            raise InputError(f"{other.name} and {path.name} in {clip.path} would both be written as {path.stem}.png")
    # The frame count that a video states may be wrong; matte_frames counts the frames themselves.
    if trimaps and trimaps.paths and clip.paths and len(trimaps.paths) != len(clip.paths):
        raise InputError(f"there are {len(trimaps.paths)} trimaps for {len(clip.paths)} images: pass one for each")


@contextmanager
def _writer(folder: Path, clip: Clip, written: list[Path]) -> Iterator[Callable[[int, str, Tensor], None]]:
    """A function of (frame number, kind, picture [1, C, H, W]) that writes the picture and lists its file."""
    with ExitStack() as open_files:
        videos: dict[str, Callable[[Tensor], None]] = {}

        def write(number: int, kind: str, picture: Tensor) -> None:
            path = folder / _place(clip, kind, number)
            if clip.video is not None:
                if kind not in videos:
                    written.append(path)
                    videos[kind] = open_files.enter_context(video_writer(path, clip.video.rate))
                videos[kind](picture)
                return
            path.parent.mkdir(exist_ok=True)
            write_image(picture, path)
            written.append(path)

        yield write
