"""binmat matte."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import repeat, tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binmat.cli.console import Steps, print_json, say
from binmat.cli.options import CostLimitOption, JsonFlag, PathOption, RatioOption
from binmat.cli.staging import staged
from binmat.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from binmat.cli.clip import Clip
    from binmat.data.mask_picture import FrameMask
    from binmat.model_defs.network import Network


def matte(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint or a converted folder.")],
    input: Annotated[
        Path, typer.Argument(metavar="INPUT", help="An image, a video, or a folder of frames: one clip, by name.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder to write to.")],
    downsample_ratio: RatioOption = None,
    trimap: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="What is known: white foreground, black background; as INPUT is."),
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
        bool, typer.Option("--show-mask", help="Also a picture of what a sparse-assisted decoder computed.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a network, float or converted, on an image, a folder of frames or a video.

    Writes OUT/alpha.png, foreground.png and composite.png; of a folder OUT/alpha/NAME.png and so on, of a video
    OUT/alpha.mp4 (H.264, constant frame rate, no sound), with the states carried from frame to frame. Where a network
    predicts no foreground, the composite takes the image's colours. --show-mask adds mask: frame, alpha and what the
    decoder computed.

    \b
    Examples:
      binmat matte rvm_mobilenetv3.pth photo.jpg -o matte
      binmat matte out frames/ -o matte --background sea.jpg
      binmat matte modnet.pth talk.mp4 -o matte --one-frame-delay
      binmat matte pam.pth photo.jpg --trimap trimap.png --cost-limit 60 -o matte
      binmat matte lsa.pth photo.jpg --trimap trimap.png -o matte \\
        --option refinement_steps=100
    """
    steps = Steps()
    with steps.step("start, with PyTorch"):
        from binmat.cli.clip import open_clip
        from binmat.cli.matte_files import matte_files
        from binmat.cli.model import open_model
        from binmat.data.image import read_image, to_rgb
        from binmat.data.mask_picture import mask_picture, with_masks
        from binmat.data.matte import composite, matte_frames, options_of, without_flicker
    clip = open_clip(input)
    trimaps = None if trimap is None else open_clip(trimap)
    _check_names(clip, trimaps)
    behind = None if background is None else read_image(background)
    written: list[Path] = []
    masks: list[FrameMask] = []
    notes: dict[str, None] = {}
    details: list[Mapping[str, str | float]] = []
    with staged(output) as folder:
        with steps.step("read the network"):
            network, _ = opened = open_model(model)
            _, ratio = opened.call(None, downsample_ratio)
            chosen = _read_options(network, options or [])
            for name, value in (("path", path), ("cost_limit", cost_limit)):
                if value is not None and name in chosen:
                    raise InputError(f"{name} is given twice, as an option of the command and of the network")
                if value is not None:
                    chosen[name] = value
        with steps.step(f"matte {input.name}") as show, matte_files(folder, clip, written) as write:
            images, frames = tee(clip.frames())
            if "progress" in options_of(network):
                chosen["progress"] = lambda done, count: show(f"{done} of {count}")
            known = repeat(None) if trimaps is None else trimaps.values()
            predictions = matte_frames(network, frames, trimaps=known, downsample_ratio=ratio, **chosen)
            if show_mask:
                predictions = with_masks(network, predictions, masks)
            if one_frame_delay:
                predictions = without_flicker(predictions)
            for number, (prediction, image) in enumerate(zip(predictions, images, strict=False)):
                write(number, "alpha", prediction.alpha)
                if prediction.foreground is not None:
                    write(number, "foreground", prediction.foreground)
                cover = None if behind is None else _cover(behind, image.shape[2], image.shape[3])
                write(number, "composite", composite(prediction, image, cover))
                if show_mask:
                    write(number, "mask", to_rgb(mask_picture(image, prediction.alpha, masks[number])))
                notes |= dict.fromkeys(prediction.notes)
                details.append(prediction.details)
                show(f"{number + 1} of {clip.count or 'unknown'}")
            _check_counts(len(details), clip, trimaps)
        files = [output / file.relative_to(folder) for file in written]
    if as_json:
        about = {"network": network.name, "downsample_ratio": ratio, "files": [str(file) for file in files]}
        active = {"active": [mask.levels for mask in masks]} if show_mask else {}
        print_json({**about, "notes": list(notes), "details": details, **active})
    else:
        print(f"{network.name}, {len(details)} frame{'s' * (len(details) > 1)}:")
        for file in dict.fromkeys(file.parent for file in files) if input.is_dir() else files:
            print(f"  {file}")
        for name, value in details[0].items():
            print(f"  {name}: {value}" + (" (first frame)" if len(details) > 1 else ""))
        if masks:
            say(_shares(masks), indent="  ")
        for note in notes:
            say(note, indent="  ")


def _read_options(network: Network, given: list[str]) -> dict[str, Any]:
    """NAME=VALUE options as the network's ``predict`` declares them; names that it lacks are left for it to refuse."""
    from binmat.data.matte import options_of

    declared = inspect.signature(network.predict).parameters
    known = options_of(network)
    read: dict[str, Any] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise InputError(f"option '{text}' is not NAME=VALUE: give for example refinement_steps=10")
        if name in read:
            raise InputError(f"option {name} is given twice, '{read[name]}' and '{value}': give one of them")
        if name not in known and name in declared:
            raise InputError(f"'{name}' is no option of {network.name} alone: give --{name.replace('_', '-')}")
        kind = str(declared[name].annotation).split(" | ")[0] if name in declared else "str"
        try:
            read[name] = {"str": str, "int": int, "float": float}[kind](value)
        except (KeyError, ValueError) as error:
            raise InputError(f"option {name} cannot be '{value}': {network.name} takes it as {kind}") from error
    return read


def _check_names(clip: Clip, trimaps: Clip | None) -> None:
    taken: dict[str, Path] = {}
    for path in clip.paths:
        other = taken.setdefault(path.stem, path)
        if other is not path:
            raise InputError(f"{other.name} and {path.name} in {clip.path} would both be written as {path.stem}.png")
    if trimaps is not None and clip.video is None and trimaps.video is None:
        _check_counts(len(clip.paths), clip, trimaps)


def _check_counts(frames: int, clip: Clip, trimaps: Clip | None) -> None:
    """Every frame has its trimap, and there is a frame."""
    if trimaps is not None and trimaps.video is None and len(trimaps.paths) != frames:
        raise InputError(f"there are {len(trimaps.paths)} trimaps for {frames} images: pass one for each")
    if not frames:
        raise InputError(f"{clip.path} has no frame that can be matted: name another")


def _shares(masks: list[FrameMask]) -> str:
    shares = [share for mask in masks for share in mask.levels.values()]
    return (
        f"{min(shares):.1%} to {max(shares):.1%} of the masked paths' pixels were active; the mask picture shows each"
    )


def _cover(picture: Tensor, height: int, width: int) -> Tensor:
    """Resized to cover the size, then cropped to its middle."""
    from binmat.data.image import resize

    scale = max(height / picture.shape[2], width / picture.shape[3])
    size = [max(height, round(picture.shape[2] * scale)), max(width, round(picture.shape[3] * scale))]
    resized = resize(picture, *size)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resized[:, :, top : top + height, left : left + width]
