"""binmat report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binmat.cli.console import Steps, print_json
from binmat.cli.options import FactoryOption, JsonFlag, RatioOption, SizeOption
from binmat.cli.paths import check_images, check_models
from binmat.errors import InputError
from binmat.printable import printable

if TYPE_CHECKING:
    from binmat.reports import Report


def report(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="Checkpoints and converted folders.")],
    size: SizeOption = None,
    downsample_ratio: RatioOption = None,
    compare: Annotated[bool, typer.Option("--compare", help="One table, one row per MODEL.")] = False,
    density: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="Credit a sparse-assisted decoder with this share of active pixels. Default: the BiMatting paper's.",
        ),
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Also credit it with the share measured on this image, video or folder of frames."
        ),
    ] = None,
    trimap: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Trimaps of --clip, in the same form, where MODEL needs them.")
    ] = None,
    background: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="For bgmv2: the scene of --clip without its subject."),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="List every layer and its cost.")] = False,
    factory: FactoryOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Count the operations and the storage of checkpoints and converted folders.

    Operations are counted in two named conventions. A converted network is counted beside its float network.

    \b
    Examples:
      binmat report out
      binmat report rvm_mobilenetv3.pth --size 512x512 --layers
      binmat report out/bnn out/reactnet out/threshold --compare
      binmat report out/bimatting --clip frames/
    """
    counted = []
    check_models(*models)
    check_images(clip, trimap, background)
    if clip is None and (trimap or background):
        raise InputError("--trimap and --background are those of a clip: name it with --clip")
    with Steps() as steps:
        steps("start, with PyTorch")
        from binmat.reports import compare as beside_each_other

        for model in models:
            steps(f"count {model}")
            counted.append(_count(model, size, downsample_ratio, density, clip, trimap, background, factory))
    if (density is not None or clip is not None) and not any(result.sparse for result in counted):
        raise InputError(
            f"{models[0]} has no sparse-assisted decoder to credit: leave out --density and --clip, or convert with "
            "--set decoder=sab"
        )
    if as_json:
        print_json(counted[0].to_json() if len(counted) == 1 else beside_each_other(*counted).to_json())
    elif compare:
        print(printable(str(beside_each_other(*counted))))
    else:
        print(printable("\n\n\n".join(result.table(layers=layers) for result in counted)))


def _count(
    path: Path,
    size: tuple[int, int] | None,
    ratio: float | None,
    density: float | None,
    clip: Path | None,
    trimap: Path | None,
    background: Path | None,
    factory: str | None,
) -> Report:
    from binmat.data.clip import open_clip
    from binmat.data.image import read_image
    from binmat.model_defs.weights_metadata import read_weights_metadata
    from binmat.pipeline.converted_folder import WEIGHTS, model_files
    from binmat.pipeline.memory_estimate import check_memory
    from binmat.reports import report as count
    from binmat.reports.sparse import PAPER_DENSITY
    from binmat.transforms.checkpoint import load

    about = read_weights_metadata(path / WEIGHTS)
    files: list[Path] = []
    if about is not None and size in (None, about.size) and ratio in (None, about.downsample_ratio):
        files = [path / WEIGHTS, *model_files(path).values()]
    network = load(path, factory=factory)
    check_memory(network, size, ratio, job="count")
    return count(
        network,
        size=size,
        downsample_ratio=ratio,
        files=files,
        density=PAPER_DENSITY if density is None else density,
        clip=None if clip is None else open_clip(clip).frames(),
        trimaps=None if trimap is None else open_clip(trimap).values(),
        background=None if background is None else read_image(background),
    )
