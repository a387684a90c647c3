"""binmat export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binmat.cli.console import Steps, print_json, say
from binmat.cli.options import ConvertedArgument, JsonFlag, RatioOption, SizeOption


def export(
    folder: ConvertedArgument,
    format: Annotated[str, typer.Option("--format", metavar="NAME", help="What to write: lce.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Default: the model file in DIR, with a new report."),
    ] = None,
    size: SizeOption = None,
    downsample_ratio: RatioOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the network in DIR as a model file again: after training, or for another size.

    The file is verified against PyTorch before it takes its place.

    \b
    Examples:
      binmat export out --format lce
      binmat export out --format lce --size 512x512 -o rvm_512.tflite
    """
    steps = Steps()
    with steps.step("start, with PyTorch"):
        from binmat.pipeline.converted_folder import export_folder
    with steps.step("lower the network, write and verify") as progress:
        written = export_folder(folder, format, output, size, downsample_ratio, progress)
    size_in_bytes = written.path.stat().st_size
    if as_json:
        verification = written.verification.summary()
        print_json({"file": str(written.path), "bytes": size_in_bytes, "verification": verification})
    else:
        say(str(written.verification))
        print(f"\n  {written.path!s:<40} {size_in_bytes:>12,} bytes")
