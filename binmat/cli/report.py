"""binmat report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binmat.cli.console import Steps, print_json, say
from binmat.cli.folder import MODEL, WEIGHTS, is_converted, read_converted, read_verification
from binmat.cli.options import JsonFlag, RatioOption, SizeOption
from binmat.errors import InputError

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
            metavar="PATH", help="Credit it as well with the share measured on this image, video or folder of frames."
        ),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Every layer with what it costs.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Count operations and storage of checkpoints and converted folders, in two named conventions.

    A converted folder is counted beside its float network.

    \b
    Examples:
      binmat report out
      binmat report rvm_mobilenetv3.pth --size 512x512 --layers
      binmat report out/bnn out/reactnet out/threshold --compare
      binmat report out/bimatting --clip frames/
    """
    steps = Steps()
    with steps.step("start, with PyTorch"):
        from binmat.reports import compare as beside_each_other
    counted = []
    for model in models:
        with steps.step(f"count {model}"):
            counted.append(_count(model, size, downsample_ratio, density, clip))
    if (density is not None or clip is not None) and not any(result.sparse for result in counted):
        raise InputError(
            f"{models[0]} has no sparse-assisted decoder to credit: leave out --density and --clip, or convert with "
            "--set decoder=sab"
        )
    if as_json:
        print_json(counted[0].to_json() if len(counted) == 1 else beside_each_other(*counted).to_json())
    elif compare:
        print(beside_each_other(*counted))
    else:
        print("\n\n\n".join(result.table(layers=layers) for result in counted))


def _count(
    path: Path, size: tuple[int, int] | None, ratio: float | None, density: float | None, clip: Path | None
) -> Report:
    from binmat.data.clip import open_clip
    from binmat.reports import report as count
    from binmat.reports.sparse import PAPER_DENSITY
    from binmat.transforms.checkpoint import load

    folder = read_converted(path) if is_converted(path) else None
    files: list[Path] = []
    verification = {}
    if folder is not None and size in (None, folder.size) and ratio in (None, folder.downsample_ratio):
        files = [file for file in (path / WEIGHTS, path / MODEL) if file.is_file()]
        found = read_verification(path)
        if found is None:
            say(f"{path}: its files are not those that were verified: binmat export {path} --format lce", error=True)
        verification = found or {}
    return count(
        load(path),
        size=size,
        downsample_ratio=ratio,
        verification=verification,
        files=files,
        density=PAPER_DENSITY if density is None else density,
        clip=None if clip is None else open_clip(clip).frames(),
    )
