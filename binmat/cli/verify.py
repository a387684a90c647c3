"""binmat verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binmat.cli.console import Steps, print_json, print_table, say
from binmat.cli.folder import MODEL, read_converted
from binmat.cli.options import ConvertedArgument, JsonFlag

if TYPE_CHECKING:
    from binmat.verification.results import SignFlips, Verification


def verify(
    folder: ConvertedArgument,
    clip: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Run on this image, video or folder of frames instead of binmat's photograph."
        ),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List the signs of every layer, not only of those with flipped ones.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run DIR's model file in its own interpreter and compare it with the network in DIR.

    Two questions are kept apart. Operator by operator: does the file compute what PyTorch computes from the same
    inputs? Any difference beyond rounding is systematic, and the exit status is 1. End to end, over two frames with
    states: how far do the outputs drift, and how many signs flip because a value sits at its threshold?

    \b
    Examples:
      binmat verify out
      binmat verify out --clip frames/ --json
    """
    steps = Steps()
    converted = read_converted(folder)
    with steps.step("start, with PyTorch"):
        from binmat.data.clip import open_clip
        from binmat.pipeline.deployment import deploy, read_model_file
        from binmat.transforms.checkpoint import load
    content = read_model_file(folder / MODEL)
    pictures = () if clip is None else open_clip(clip).frames()
    with steps.step("read and lower the network"):
        deployment = deploy(load(folder), converted.size, converted.downsample_ratio)
    with steps.step(f"run {folder / MODEL}") as show:
        clips = deployment.clips(pictures)
        verdict = deployment.verify(content, clips, show)
    if as_json:
        print_json(verdict.to_json())
    else:
        print_outputs(verdict)
        print_flips(verdict, every=layers)
        say(str(verdict))
    verdict.check()


def print_outputs(verdict: Verification) -> None:
    """How far each output lies from PyTorch's, end to end."""
    runs = verdict.runs
    names = dict.fromkeys(output.name for run in runs.values() for output in run.outputs)
    frames = max(run.frames for run in runs.values())
    rows = [
        [name, *(f"{max(o.max_abs for o in run.outputs if o.name == name):.1e}" for run in runs.values())]
        for name in names
    ]
    heads = {"output": "left", **{f"{clip}, {kernel} kernel": "right" for clip, kernel in runs}}
    print_table(heads, rows, title=f"Largest difference of each output, end to end over {frames} frames")


def print_flips(verdict: Verification, *, every: bool) -> None:
    """Signs that differ end to end, by layer, all runs together: layers with flipped ones, or every one."""
    layers: dict[str, list[SignFlips]] = {}
    for run in verdict.runs.values():
        for flip in run.flips:
            layers.setdefault(flip.layer or flip.node, []).append(flip)
    rows = [
        [
            layer,
            f"{sum(flip.flipped for flip in flips):,}",
            f"{sum(flip.elements for flip in flips):,}",
            f"{max(flip.distance for flip in flips):.1e}" if any(flip.flipped for flip in flips) else "",
        ]
        for layer, flips in layers.items()
        if every or any(flip.flipped for flip in flips)
    ]
    if rows:
        heads = {"layer": "left", "flipped": "right", "signs": "right", "from threshold, in std": "right"}
        print_table(heads, rows, title="Flipped signs, end to end, all runs together (each of them: --json)")
    else:
        print(f"No sign flipped in any of {len(layers)} binary layers.")
