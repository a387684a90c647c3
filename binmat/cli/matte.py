"""binmat matte."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binmat.cli.console import Steps, print_json
from binmat.cli.options import JsonFlag, RatioOption
from binmat.cli.staging import staged
from binmat.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from binmat.model_defs.network import Prediction


def matte(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint or a converted folder.")],
    input: Annotated[Path, typer.Argument(metavar="INPUT", help="An image, or a folder of frames: one clip, by name.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder to write to.")],
    downsample_ratio: RatioOption = None,
    trimap: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="What is known: white foreground, black background; an image, or a folder."),
    ] = None,
    background: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Image behind the composite. Default: green.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run a network, float or converted, on an image or on a folder of frames.

    Writes OUT/alpha.png, foreground.png and composite.png; of a folder OUT/alpha/NAME.png and so on, with the states
    carried from frame to frame. Where a network predicts no foreground, the composite takes
    the image's colours.

    \b
    Examples:
      binmat matte rvm_mobilenetv3.pth photo.jpg -o matte
      binmat matte out frames/ -o matte --background sea.jpg
    """
    steps = Steps()
    with steps.step("start, with PyTorch"):
        from binmat.cli.clip import frame_paths
        from binmat.cli.model import open_model
        from binmat.data.image import read_grey, read_image
        from binmat.data.matte import matte_frames
    paths = frame_paths(input)
    trimaps: list[Path] | list[None] = [None] * len(paths) if trimap is None else frame_paths(trimap)
    _check_names(paths, trimaps, input)
    behind = None if background is None else read_image(background)
    with staged(output) as folder:
        with steps.step("read the network"):
            network, _ = opened = open_model(model)
            _, ratio = opened.call(None, downsample_ratio)
        with steps.step(f"matte {len(paths)} frame{'s' * (len(paths) > 1)}") as show:
            images, frames = tee(read_image(path) for path in paths)
            known = (None if path is None else read_grey(path) for path in trimaps)
            predictions = matte_frames(network, frames, trimaps=known, downsample_ratio=ratio)
            written: list[Path] = []
            for number, (path, image, prediction) in enumerate(zip(paths, images, predictions, strict=True), 1):
                name = f"/{path.stem}" if input.is_dir() else ""
                written += _write(folder, name, image, prediction, behind)
                show(f"{number} of {len(paths)}")
        files = [output / file.relative_to(folder) for file in written]
    if as_json:
        print_json({"network": network.name, "downsample_ratio": ratio, "files": [str(file) for file in files]})
    else:
        print(f"{network.name}, {len(paths)} frame{'s' * (len(paths) > 1)}:")
        for file in files if not input.is_dir() else dict.fromkeys(file.parent for file in files):
            print(f"  {file}")


def _check_names(paths: list[Path], trimaps: list[Path] | list[None], input: Path) -> None:
    taken: dict[str, Path] = {}
    for path in paths:
        other = taken.setdefault(path.stem, path)
        if other is not path:
            raise InputError(f"{other.name} and {path.name} in {input} would both be written as {path.stem}.png")
    if len(trimaps) != len(paths):
        raise InputError(f"there are {len(trimaps)} trimaps for {len(paths)} images: pass one for each")


def _write(folder: Path, name: str, image: Tensor, prediction: Prediction, background: Tensor | None) -> Iterable[Path]:
    from binmat.data.image import write_image
    from binmat.data.matte import composite

    behind = None if background is None else _cover(background, image.shape[2], image.shape[3])
    pictures = {"alpha": prediction.alpha, "foreground": prediction.foreground}
    pictures["composite"] = composite(prediction, image, behind)
    for kind, picture in pictures.items():
        if picture is not None:
            path = folder / f"{kind}{name}.png"
            path.parent.mkdir(exist_ok=True)
            write_image(picture, path)
            yield path


def _cover(picture: Tensor, height: int, width: int) -> Tensor:
    """Resized to cover the size, then cropped to its middle."""
    from torch.nn import functional as F

    scale = max(height / picture.shape[2], width / picture.shape[3])
    size = [max(height, round(picture.shape[2] * scale)), max(width, round(picture.shape[3] * scale))]
    resized = F.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resized[:, :, top : top + height, left : left + width]
