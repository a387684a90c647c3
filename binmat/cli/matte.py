"""binmat matte."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binmat.cli.console import Steps, print_json, say
from binmat.cli.options import CostLimitOption, JsonFlag, PathOption, RatioOption
from binmat.cli.staging import staged
from binmat.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from binmat.data.mask_picture import FrameMask
    from binmat.model_defs.network import Network, Prediction


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
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="What this network alone takes, such as refinement_steps of lsa_matting; may be repeated.",
        ),
    ] = None,
    path: PathOption = None,
    cost_limit: CostLimitOption = None,
    one_frame_delay: Annotated[
        bool, typer.Option("--one-frame-delay", help="Take single frames' flicker out of a clip's alpha (MODNet).")
    ] = False,
    show_mask: Annotated[
        bool, typer.Option("--show-mask", help="Also a picture of what a sparse-assisted decoder computed: mask.png.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a network, float or converted, on an image or on a folder of frames.

    Writes OUT/alpha.png, foreground.png and composite.png; of a folder OUT/alpha/NAME.png and so on, with the states
    carried from frame to frame. Where a network predicts no foreground, the composite takes
    the image's colours. --show-mask adds mask.png: frame, alpha and what the decoder computed.

    \b
    Examples:
      binmat matte rvm_mobilenetv3.pth photo.jpg -o matte
      binmat matte out frames/ -o matte --background sea.jpg
      binmat matte pam.pth photo.jpg --trimap trimap.png --cost-limit 60 -o matte
      binmat matte lsa.pth photo.jpg --trimap trimap.png -o matte \\
        --option refinement_steps=100
    """
    steps = Steps()
    with steps.step("start, with PyTorch"):
        from binmat.cli.clip import frame_paths
        from binmat.cli.model import open_model
        from binmat.data.image import read_image, read_values
        from binmat.data.mask_picture import with_masks
        from binmat.data.matte import matte_frames, options_of, without_flicker
    paths = frame_paths(input)
    trimaps: list[Path] | list[None] = [None] * len(paths) if trimap is None else frame_paths(trimap)
    _check_names(paths, trimaps, input)
    behind = None if background is None else read_image(background)
    with staged(output) as folder:
        with steps.step("read the network"):
            network, _ = opened = open_model(model)
            _, ratio = opened.call(None, downsample_ratio)
            chosen = _read_options(network, options or [])
            chosen |= {name: value for name, value in (("path", path), ("cost_limit", cost_limit)) if value is not None}
        with steps.step(f"matte {len(paths)} frame{'s' * (len(paths) > 1)}") as show:
            images, frames = tee(read_image(path) for path in paths)
            known = (None if path is None else read_values(path) for path in trimaps)
            if "progress" in options_of(network):
                chosen["progress"] = lambda done, count: show(f"{done} of {count}")
            predictions = matte_frames(network, frames, trimaps=known, downsample_ratio=ratio, **chosen)
            masks: list[FrameMask] = []
            if show_mask:
                predictions = with_masks(network, predictions, masks)
            if one_frame_delay:
                predictions = without_flicker(predictions)
            written: list[Path] = []
            notes: dict[str, None] = {}
            details: list[Mapping[str, str | float]] = []
            for number, (source, image, prediction) in enumerate(zip(paths, images, predictions, strict=True), 1):
                name = f"/{source.stem}" if input.is_dir() else ""
                shown = masks[number - 1] if show_mask else None
                written += _write(folder, name, image, prediction, behind, shown)
                notes |= dict.fromkeys(prediction.notes)
                details.append(prediction.details)
                show(f"{number} of {len(paths)}")
        files = [output / file.relative_to(folder) for file in written]
    if as_json:
        about = {"network": network.name, "downsample_ratio": ratio, "files": [str(file) for file in files]}
        active = {"active": [mask.levels for mask in masks]} if show_mask else {}
        print_json({**about, "notes": list(notes), "details": details, **active})
    else:
        print(f"{network.name}, {len(paths)} frame{'s' * (len(paths) > 1)}:")
        for file in files if not input.is_dir() else dict.fromkeys(file.parent for file in files):
            print(f"  {file}")
        for name, value in details[0].items():
            print(f"  {name}: {value}" + (" (first frame)" if len(details) > 1 else ""))
        if masks:
            say(_shares(masks), indent="  ")
        for note in notes:
            say(note, indent="  ")


def _read_options(network: Network, given: list[str]) -> dict[str, Any]:
    """NAME=VALUE options as the network's ``predict`` declares them; names that it lacks are left for it to refuse."""
    declared = inspect.signature(network.predict).parameters
    read: dict[str, Any] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise InputError(f"option '{text}' is not NAME=VALUE: give for example refinement_steps=10")
        kind = str(declared[name].annotation).split(" | ")[0] if name in declared else "str"
        try:
            read[name] = {"str": str, "int": int, "float": float}[kind](value)
        except (KeyError, ValueError) as error:
            raise InputError(f"option {name} cannot be '{value}': {network.name} takes it as {kind}") from error
    return read


def _check_names(paths: list[Path], trimaps: list[Path] | list[None], input: Path) -> None:
    taken: dict[str, Path] = {}
    for path in paths:
        other = taken.setdefault(path.stem, path)
        if other is not path:
            raise InputError(f"{other.name} and {path.name} in {input} would both be written as {path.stem}.png")
    if len(trimaps) != len(paths):
        raise InputError(f"there are {len(trimaps)} trimaps for {len(paths)} images: pass one for each")


def _shares(masks: list[FrameMask]) -> str:
    shares = [share for mask in masks for share in mask.levels.values()]
    return f"{min(shares):.1%} to {max(shares):.1%} of the masked paths' pixels were active; mask.png shows each path"


def _write(
    folder: Path,
    name: str,
    image: Tensor,
    prediction: Prediction,
    background: Tensor | None,
    mask: FrameMask | None,
) -> Iterable[Path]:
    from binmat.data.image import write_image, write_picture
    from binmat.data.mask_picture import mask_picture
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
    if mask is not None:
        path = folder / f"mask{name}.png"
        path.parent.mkdir(exist_ok=True)
        write_picture(mask_picture(image, prediction.alpha, mask), path)
        yield path


def _cover(picture: Tensor, height: int, width: int) -> Tensor:
    """Resized to cover the size, then cropped to its middle."""
    from binmat.data.image import resize

    scale = max(height / picture.shape[2], width / picture.shape[3])
    size = [max(height, round(picture.shape[2] * scale)), max(width, round(picture.shape[3] * scale))]
    resized = resize(picture, *size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resized[:, :, top : top + height, left : left + width]
