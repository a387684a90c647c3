"""binmat report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binmat.cli.console import Steps, print_json
from binmat.cli.folder import MODEL, WEIGHTS, read_verification
from binmat.cli.options import JsonFlag, RatioOption, SizeOption

if TYPE_CHECKING:
    from binmat.reports import Report


def report(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL", help="Checkpoints and converted folders.")],
    size: SizeOption = None,
    downsample_ratio: RatioOption = None,
    compare: Annotated[bool, typer.Option("--compare", help="One table, one row per MODEL.")] = False,
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
    """
    steps = Steps()
    with steps.step("start, with PyTorch"):
        from binmat.reports import compare as beside_each_other
    counted = []
    for model in models:
        with steps.step(f"count {model}"):
            counted.append(_count(model, size, downsample_ratio))
    if as_json:
        print_json(counted[0].to_json() if len(counted) == 1 else beside_each_other(*counted).to_json())
    elif compare:
        print(beside_each_other(*counted))
    else:
        print("\n\n\n".join(result.table(layers=layers) for result in counted))


def _count(path: Path, size: tuple[int, int] | None, ratio: float | None) -> Report:
    from binmat.cli.model import open_model
    from binmat.reports import report as count

    network, folder = model = open_model(path)
    size, ratio = model.call(size, ratio)
    if folder is None or (size, ratio) != (folder.size, folder.downsample_ratio):
        return count(network, size=size, downsample_ratio=ratio)
    files = [file for file in (path / WEIGHTS, path / MODEL) if file.is_file()]
    return count(network, size=size, downsample_ratio=ratio, verification=read_verification(path), files=files)
