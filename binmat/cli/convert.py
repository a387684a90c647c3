"""binmat convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binmat.cli.console import Steps, print_json
from binmat.cli.options import JsonFlag, NetworkOptions, RatioOption, Size, parse_size


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A network: .pth, .ckpt, .safetensors.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Folder to write to: new, empty or an earlier conversion."),
    ],
    network: Annotated[
        str | None, typer.Option(metavar="NAME", help="What the checkpoint holds. Default: recognised by its keys.")
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Scheme of every layer but the input and output layers (binmat schemes). Default: reactnet.",
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="FILE|NAME", help="A recipe instead of a scheme (binmat recipes).")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the recipe; may be repeated. KEY: one of its fields (padding), options.NAME of its scheme, or "
            "a layer's name or pattern whose VALUE is float or a scheme.",
        ),
    ] = None,
    size: Annotated[
        Size | None,
        typer.Option(
            metavar="HxW", parser=parse_size, help="Height and width of the frames. Default: the network's usual size."
        ),
    ] = None,
    downsample_ratio: RatioOption = None,
    options: NetworkOptions = None,
    formats: Annotated[
        str, typer.Option(metavar="NAMES", help="Model files to write, with commas between them: lce.")
    ] = "lce",
    clip: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Verify on this image, video or folder of frames instead of binmat's photograph; a sparse-assisted "
            "decoder is credited with the density measured on it as well.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a checkpoint a 1-bit network: weights to train, a model file to ship, a report.

    \b
    Writes into DIR:
      model.safetensors   the converted network: trainable weights and its recipe
      model.tflite        the same for Larq Compute Engine, verified
      recipe.toml         what was done, to be changed and used again
      report.json, .md    operations, storage, layers and verification

    \b
    Examples:
      binmat convert rvm_mobilenetv3.pth --size 288x512 -o out
      binmat convert rvm_mobilenetv3.pth -o out --scheme bnn --set 'aspp.*=float'
      binmat convert rvm_mobilenetv3.pth -o out --recipe arm \\
        --size 1080x1920 --downsample-ratio 0.25
      binmat convert pam.pth -o out --option cost_limit=60 --size 1024x1024
    """
    if scheme is not None and recipe is not None:
        raise typer.BadParameter("a recipe names its scheme: give --scheme or --recipe, not both.")
    steps = Steps()
    with steps.step("start, with PyTorch"):
        from binmat.cli.summary import print_conversion
        from binmat.pipeline.convert_checkpoint import convert_checkpoint
    with steps.follow() as progress:
        converted = convert_checkpoint(
            checkpoint,
            output,
            scheme,
            network=network,
            recipe=recipe,
            settings=settings or (),
            size=size,
            downsample_ratio=downsample_ratio,
            formats=[name.strip() for name in formats.split(",")],
            clip=clip,
            options=options or (),
            progress=progress,
        )
    steps.finish()
    if as_json:
        print_json(converted.report.to_json())
    else:
        print_conversion(converted)
