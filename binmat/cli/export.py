"""binmat export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binmat.cli.console import Steps, print_json, say
from binmat.cli.folder import MODEL, REPORT, REPORT_TEXT, WEIGHTS, read_converted
from binmat.cli.options import ConvertedArgument, JsonFlag, RatioOption, SizeOption
from binmat.errors import InputError


def export(
    folder: ConvertedArgument,
    format: Annotated[str, typer.Option("--format", metavar="NAME", help="What to write: lce.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help=f"Default: {MODEL} in DIR, with a new report.")
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
    converted = read_converted(folder)
    ratio = converted.downsample_ratio if downsample_ratio is None else downsample_ratio
    call = (size or converted.size, ratio)
    target = output or folder / MODEL
    if output is None and call != (converted.size, converted.downsample_ratio):
        raise InputError(
            f"{target} is for {converted.size[0]}x{converted.size[1]}, downsample ratio "
            f"{converted.downsample_ratio:g}: name another file with -o"
        )
    if target.suffix != Path(MODEL).suffix:
        raise InputError(
            f"{target} does not end in {Path(MODEL).suffix}, as models for LCE do: name another file with -o"
        )
    if not target.parent.is_dir():
        raise InputError(f"there is no folder {target.parent}: make it, or name another file with -o")
    steps = Steps()
    with steps.step("start, with PyTorch"):
        from binmat.backends.registry import get_backend
        from binmat.pipeline.deployment import deploy
        from binmat.reports import report
        from binmat.transforms.checkpoint import load
    get_backend(format)
    with steps.step("read and lower the network"):
        network = load(folder)
        deployment = deploy(network, *call)
    with steps.step("verify it in LCE's interpreter") as show:
        verdict = deployment.verify(progress=show)
        verdict.check()
    deployment.write(target)
    if output is None:
        with steps.step("count, write the report"):
            counted = report(
                network,
                size=call[0],
                downsample_ratio=ratio,
                verification=verdict.summary(),
                files=[folder / WEIGHTS, target],
            )
            for name in (REPORT, REPORT_TEXT):
                counted.save(folder / name)
    if as_json:
        print_json({"file": str(target), "bytes": target.stat().st_size, "verification": verdict.summary()})
    else:
        say(str(verdict))
        print(f"\n  {target!s:<40} {target.stat().st_size:>12,} bytes")
