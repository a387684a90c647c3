"""binmat convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binmat.cli.console import Steps, print_json
from binmat.cli.folder import MODEL, RECIPE, REPORT, REPORT_TEXT, WEIGHTS, written_whole
from binmat.cli.options import CostLimitOption, JsonFlag, PathOption, RatioOption, Size, parse_size
from binmat.cli.paths import static_path

DEFAULT_SCHEME = "reactnet"


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
            help=f"Scheme of every layer but the input and output layers (binmat schemes). Default: {DEFAULT_SCHEME}.",
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
    path: PathOption = None,
    cost_limit: CostLimitOption = None,
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
      binmat convert pam.pth -o out --cost-limit 60 --size 1024x1024
    """
    if scheme is not None and recipe is not None:
        raise typer.BadParameter("a recipe names its scheme: give --scheme or --recipe, not both.")
    steps = Steps()
    with written_whole(output) as folder:
        with steps.step("start, with PyTorch"):
            from binmat.cli.clip import open_clip
            from binmat.cli.summary import print_conversion
            from binmat.export.deployment import check_format, deploy
            from binmat.model_defs.example_inputs import example_inputs, ratio_of
            from binmat.reports import report
            from binmat.transforms.checkpoint import load, save
            from binmat.transforms.convert import convert as transform
            from binmat.transforms.convert import recipe_of
        for name in formats.split(","):
            check_format(name.strip())
        pictures = () if clip is None else open_clip(clip).frames()
        with steps.step("read the checkpoint"):
            net = static_path(load(checkpoint, network), path, cost_limit, size)
        with steps.step("trace and rewrite"):
            made_for = size or example_inputs(net, None, downsample_ratio).size
            if scheme is None and recipe is None and (settings or recipe_of(net) is None):
                scheme = DEFAULT_SCHEME  # What is converted, the authors' BiMatting say, keeps its own.
            ratio = ratio_of(net, downsample_ratio)
            converted = transform(
                net, scheme, recipe=recipe, settings=settings or (), size=made_for, downsample_ratio=ratio
            )
            call = example_inputs(converted)
        with steps.step("lower and write the LCE model"):
            deployment = deploy(converted, example=call)
            deployment.write(folder / MODEL)
        with steps.step("verify it in LCE's interpreter") as show:
            verdict = deployment.verify(
                clips=deployment.clips(pictures), progress=lambda done, count: show(f"{done} of {count}")
            )
            verdict.check()
        with steps.step("count, write weights and report"):
            save(converted, folder / WEIGHTS)
            made_by = recipe_of(converted)
            assert made_by is not None
            (folder / RECIPE).write_text(made_by.to_toml(), encoding="utf-8")
            counted = report(
                *((net, converted) if recipe_of(net) is None else (converted,)),
                example=call,
                downsample_ratio=ratio,
                verification=verdict.summary(),
                files=[folder / WEIGHTS, folder / MODEL],
                clip=None if clip is None else open_clip(clip).frames(),
            )
            for name in (REPORT, REPORT_TEXT):
                counted.save(folder / name)
    steps.finish()
    if as_json:
        print_json(counted.to_json())
    else:
        print_conversion(counted, verdict, output)
