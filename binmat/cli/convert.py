"""binmat convert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binmat.cli.console import Steps, print_json, print_table, say
from binmat.cli.names import check_names
from binmat.cli.options import ClipOption, JsonFlag, NetworkOptions, RatioOption, SizeOption
from binmat.cli.paths import check_images, check_models
from binmat.printable import printable

if TYPE_CHECKING:
    from binmat.pipeline.convert_checkpoint import ConvertedCheckpoint
    from binmat.reports import Report


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A .pth, .ckpt or .safetensors file.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Folder to write: new, empty or an earlier conversion."),
    ],
    network: Annotated[
        str | None, typer.Option(metavar="NAME", help="Network in the checkpoint. Default: recognised by its keys.")
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Scheme of all but the input and output layers. Default: reactnet."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="FILE|NAME", help="A recipe instead of a scheme; binmat recipes lists them.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change the recipe; may be repeated. KEY is a field of the recipe such as padding, options.NAME of "
            "its scheme, or the name or pattern of layers; VALUE is then float or a scheme.",
        ),
    ] = None,
    size: SizeOption = None,
    downsample_ratio: RatioOption = None,
    options: NetworkOptions = None,
    formats: Annotated[
        str, typer.Option(metavar="NAMES", help="Formats of the model files, separated by commas. Default: lce.")
    ] = "lce",
    clip: ClipOption = None,
    calibration: Annotated[
        bool,
        typer.Option(
            "--calibration/--no-calibration",
            help="Whether thresholds and norms of a fresh conversion are initialised from the clip or photograph.",
        ),
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Turn a checkpoint into a 1-bit network, with a verified model file and a report.

    \b
    Writes into DIR:
      model.safetensors   the converted network: trainable weights and its recipe
      model.tflite        the network for Larq Compute Engine, verified
      recipe.toml         the recipe, to be changed and used again
      report.json, .md    operations, storage, layers and verification

    A fresh conversion's thresholds and batch norms are initialised from a few frames, so that its layers react to the
    picture. A scheme without thresholds gets them where layers would not. --no-calibration leaves all that out.
    With --clip the density of a sparse-assisted decoder is measured as well.

    \b
    Examples:
      binmat convert rvm_mobilenetv3.pth --size 288x512 -o out
      binmat convert rvm_mobilenetv3.pth -o out --scheme bnn --set 'aspp.*=float'
      binmat convert rvm_mobilenetv3.pth -o out --recipe arm \\
        --size 1080x1920 --downsample-ratio 0.25
      binmat convert pam.pth -o out --option cost_limit=60 --size 1024x1024
    """
    if scheme is not None and recipe is not None:
        raise typer.BadParameter("a recipe has a scheme of its own: give --scheme or --recipe, not both.")
    names = [name.strip() for name in formats.split(",") if name.strip()]
    check_names(scheme, recipe, names)
    check_models(checkpoint)
    check_images(clip)
    with Steps() as steps:
        steps("start, with PyTorch")
        from binmat.pipeline.convert_checkpoint import convert_checkpoint

        converted = convert_checkpoint(
            checkpoint,
            output,
            scheme,
            network=network,
            recipe=recipe,
            settings=settings or (),
            size=size,
            downsample_ratio=downsample_ratio,
            formats=names,
            clip=clip,
            options=options or (),
            calibration=calibration,
            progress=steps,
        )
    steps.print_together()
    if as_json:
        print_json(converted.report.to_json())
    else:
        _print_conversion(converted)


def _print_conversion(converted: ConvertedCheckpoint) -> None:
    report = converted.report
    binary = sum(layer.precision == "binary" for layer in report.layers)
    ratio = "" if report.downsample_ratio == 1 else f", downsample ratio {report.downsample_ratio:g}"
    print(
        f"{report.network}, recipe {report.recipe}: {binary} of {len(report.layers)} layers are 1-bit. "
        f"One frame of {report.height}x{report.width}{ratio}:"
    )
    _print_costs(report)
    for note in report.notes:
        say(f"Note: {note}")
    for warning in report.warnings:
        say(f"Warning: {warning}")
    for verification in converted.verifications.values():
        say(str(verification))
    print()
    for path in converted.files:
        print(f"  {printable(str(path)):<40} {path.stat().st_size:>12,} bytes")


def _print_costs(report: Report) -> None:
    from binmat.reports import CONVENTIONS
    from binmat.reports.tables import bytes_unit, operations_unit, times

    sides = {"float": report.before, "converted": report.after}
    known = {name: side for name, side in sides.items() if side is not None}
    ops = operations_unit(max(count.total.ops for side in known.values() for count in side.counts.values()))
    stored = bytes_unit(max(side.bytes for side in known.values()))
    rows = [
        [name, *(ops.show(side.counts[c].total.ops) for c in CONVENTIONS), stored.show(side.bytes)]
        for name, side in known.items()
    ]
    rows.append(["times less", *(times(report.ratio(c)) for c in CONVENTIONS), times(report.storage_ratio)])
    print_table(["", *(f"{c}, {ops.name} operations" for c in CONVENTIONS), f"storage, {stored.name}"], rows)
