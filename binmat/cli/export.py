"""binmat export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binmat.cli.console import Steps, print_json, say
from binmat.cli.names import check_names
from binmat.cli.options import ConvertedArgument, FactoryOption, JsonFlag, RatioOption, SizeOption
from binmat.cli.paths import check_folder
from binmat.printable import printable


def export(
    folder: ConvertedArgument,
    format: Annotated[str, typer.Option("--format", metavar="NAME", help="Format of the file: lce.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Default: the model file in DIR, with a new report."),
    ] = None,
    size: SizeOption = None,
    downsample_ratio: RatioOption = None,
    factory: FactoryOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the network in DIR as a model file again: after training, or for another size.

    The file is written when it is verified against PyTorch, or not at all.

    \b
    Examples:
      binmat export out --format lce
      binmat export out --format lce --size 512x512 -o rvm_512.tflite
    """
    check_names(formats=[format])
    check_folder(folder)
    with Steps() as steps:
        steps("start, with PyTorch")
        from binmat.pipeline.converted_folder import export_folder

        progress = steps.step("lower the network, write and verify")
        path, verification = export_folder(
            folder, format, output, size, downsample_ratio, progress, factory=factory
        )
    size_in_bytes = path.stat().st_size
    if as_json:
        print_json({"file": str(path), "bytes": size_in_bytes, "verification": verification.summary()})
    else:
        say(str(verification))
        print(f"\n  {printable(str(path)):<40} {size_in_bytes:>12,} bytes")
