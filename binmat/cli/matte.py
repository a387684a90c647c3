"""binmat matte."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binmat.cli.console import Steps, print_json, say
from binmat.cli.options import JsonFlag, NetworkOptions, RatioOption
from binmat.cli.paths import check_images, check_models
from binmat.printable import printable

if TYPE_CHECKING:
    from binmat.pipeline.matte_clip import ClipMatte


def matte(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A checkpoint or a converted folder.")],
    input: Annotated[
        Path, typer.Argument(metavar="INPUT", help="An image, a video, or a folder of frames sorted by name.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="Folder to write to.")],
    downsample_ratio: RatioOption = None,
    trimap: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Foreground white, background black, unknown grey; same form as INPUT."),
    ] = None,
    background: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Image behind the composite. Default: green. For bgmv2: the scene of INPUT without its subject.",
        ),
    ] = None,
    options: NetworkOptions = None,
    one_frame_delay: Annotated[
        bool, typer.Option("--one-frame-delay", help="Filter flicker of single frames out of the alpha of a clip.")
    ] = False,
    show_mask: Annotated[
        bool, typer.Option("--show-mask", help="Also write the mask picture.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a network, float or converted, on an image, a folder of frames or a video.

    An image gives OUT/alpha.png, foreground.png and composite.png. A folder gives OUT/alpha/NAME.png and so on. A video
    gives OUT/alpha.mp4 and so on (H.264, constant frame rate, no sound). States are carried from frame to frame. Where
    a network predicts no foreground, there is no foreground file, and the composite takes the colours of the image.
    --show-mask adds a picture of the frame, its alpha and the pixels that a sparse-assisted decoder computed.

    \b
    Examples:
      binmat matte rvm_mobilenetv3.pth photo.jpg -o matte
      binmat matte out frames/ -o matte --background sea.jpg
      binmat matte modnet.pth talk.mp4 -o matte --one-frame-delay
      binmat matte bgmv2.pth photo.jpg --background empty.jpg -o matte \\
        --downsample-ratio 0.25
      binmat matte pam.pth photo.jpg --trimap trimap.png -o matte \\
        --option cost_limit=60
      binmat matte lsa.pth photo.jpg --trimap trimap.png -o matte \\
        --option refinement_steps=100
    """
    check_models(model)
    check_images(input, trimap, background)
    with Steps() as steps:
        steps("start, with PyTorch")
        from binmat.model_defs.network_option import parse_options
        from binmat.pipeline.matte_clip import matte_clip
        from binmat.transforms.checkpoint import load

        steps("read the network")
        network = load(model)
        chosen = parse_options(network.name, network.options, options or ())
        made = matte_clip(
            network,
            input,
            output,
            trimap=trimap,
            background=background,
            downsample_ratio=downsample_ratio,
            one_frame_delay=one_frame_delay,
            show_mask=show_mask,
            progress=steps.step(f"matte {input.name}"),
            **chosen,
        )
    if as_json:
        about = {"network": network.name, "downsample_ratio": made.downsample_ratio, "files": [*map(str, made.files)]}
        active = {"active": made.active} if show_mask else {}
        print_json({**about, "notes": made.notes, "details": made.details, **active})
    else:
        _print_made(network.name, made, input.is_dir())


def _print_made(network: str, made: ClipMatte, many_files: bool) -> None:
    several = len(made.details) > 1
    print(f"{network}, {len(made.details)} frame{'s' * several}:")
    for file in dict.fromkeys(file.parent for file in made.files) if many_files else made.files:
        print(f"  {printable(str(file))}")
    for name, value in made.details[0].items():
        print(f"  {name}: {value}" + (" (first frame)" if several else ""))
    shares = [share for levels in made.active for share in levels.values()]
    if shares:
        active = f"{min(shares):.1%} to {max(shares):.1%} of the masked paths' pixels were active"
        say(f"{active}; the mask picture shows each", indent="  ")
    for note in made.notes:
        say(note, indent="  ")
