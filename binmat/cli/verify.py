"""binmat verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from binmat.cli.console import Steps, error_object, print_error, print_json, print_table, say
from binmat.cli.options import ClipOption, ConvertedArgument, FactoryOption, JsonFlag
from binmat.cli.paths import check_folder, check_images
from binmat.errors import VerificationError

if TYPE_CHECKING:
    from binmat.verification.results import SignFlips, Verification


def verify(
    folder: ConvertedArgument,
    clip: ClipOption = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List all layers with signs, not only those where signs flipped.")
    ] = False,
    factory: FactoryOption = None,
    as_json: JsonFlag = False,
) -> int:
    """Compare the model file in DIR with the network in DIR.

    The file must be an export of the network; if it is not, what differs is named. Then it runs in its own interpreter.
    Each operator is compared on equal inputs, and on values that no picture has: does the file compute what PyTorch
    computes? Any difference beyond rounding is systematic, and the exit status is 1. Outputs are compared end to end,
    over two frames with states: how far do they drift, and how many signs flip because a value lies at its threshold?

    \b
    Examples:
      binmat verify out
      binmat verify out --clip frames/ --json
    """
    check_folder(folder)
    check_images(clip)
    with Steps() as steps:
        steps("start, with PyTorch")
        from binmat.pipeline.converted_folder import verify_folder

        found = verify_folder(folder, clip, steps.step(f"verify {folder}"), factory=factory)
    try:
        for verification in found.values():
            verification.check()
        failed = None
    except VerificationError as error:
        failed = error
    if as_json:
        faults = (verification.systematic for verification in found.values())
        print_json(
            {
                **(error_object(failed, str(failed)) if failed else {}),
                "systematic": next((fault for fault in faults if fault is not None), None),
                "summary": {key: n for verification in found.values() for key, n in verification.summary().items()},
                "formats": {format: verification.to_json() for format, verification in found.items()},
            }
        )
    else:
        for verification in found.values():
            _print_outputs(verification)
            _print_flips(verification, every=layers)
            say(str(verification))
    if failed is None:
        return 0
    print_error(str(failed))
    return 1


def _print_outputs(verification: Verification) -> None:
    """How far each output lies from PyTorch's, end to end."""
    runs = verification.whole
    names = dict.fromkeys(output.name for run in runs.values() for output in run.outputs)
    frames = max(run.frames for run in runs.values())
    rows = [
        [name, *(f"{max(o.max_abs for o in run.outputs if o.name == name):.1e}" for run in runs.values())]
        for name in names
    ]
    heads = ["output", *(f"{clip}, {kernel} kernel" if kernel else clip for clip, kernel in runs)]
    title = f"{verification.title}: largest difference of each output, end to end over {frames} frames"
    print_table(heads, rows, title)


def _print_flips(verification: Verification, *, every: bool) -> None:
    """Signs that differ end to end, all runs together: of every layer, or of those where any flipped."""
    layers: dict[str, list[SignFlips]] = {}
    for run in verification.runs.values():
        for flip in run.flips:
            layers.setdefault(flip.layer or flip.node, []).append(flip)
    rows = []
    for layer, flips in layers.items():
        flipped = sum(flip.flipped for flip in flips)
        if every or flipped:
            distance = f"{max(flip.distance for flip in flips):.1e}" if flipped else ""
            rows.append([layer, f"{flipped:,}", f"{sum(flip.elements for flip in flips):,}", distance])
    if rows:
        heads = ["layer", "flipped", "signs", "from threshold, in std"]
        title = f"{verification.title}: flipped signs, end to end, all runs together (each of them: --json)"
        print_table(heads, rows, title)
    else:
        print(f"{verification.title}: no sign flipped in any of {len(layers)} binary layers.")
