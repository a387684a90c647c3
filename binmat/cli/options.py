"""Arguments and options that several commands have."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, NamedTuple

import typer


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


def parse_size(text: str) -> Size:
    """HxW with two positive integers. Raises typer.BadParameter."""
    found = re.fullmatch(r"0*([1-9][0-9]{0,8})x0*([1-9][0-9]{0,8})", text.strip(), re.IGNORECASE)
    if found is None:
        raise typer.BadParameter(f"'{text}' is not a size: give height and width in pixels, for example 288x512.")
    return Size(int(found[1]), int(found[2]))


def parse_ratio(text: str) -> float:
    """A positive finite number. Raises typer.BadParameter."""
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 0 < ratio < math.inf:
        raise typer.BadParameter(f"'{text}' is not a positive number: give a number such as 0.25.")
    return ratio


SizeOption = Annotated[
    Size | None,
    typer.Option(
        "--size",
        metavar="HxW",
        parser=parse_size,
        help="Height and width of the frames. Default: the size that the network was converted for, else its usual "
        "size.",
    ),
]
RatioOption = Annotated[
    float | None,
    typer.Option(
        "--downsample-ratio",
        metavar="R",
        parser=parse_ratio,
        help="Predict at this fraction of the size and enlarge the result (RVM: by its guided filter). Default: the "
        "ratio that the network was converted for, else 1.",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")]
ConvertedArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that binmat convert wrote.")]
NetworkOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="An option of this network, such as cost_limit of pam; may be repeated. binmat networks lists them all.",
    ),
]
FactoryOption = Annotated[
    str | None,
    typer.Option(
        "--factory",
        metavar="MODULE:FUNCTION",
        help="For a network of your own: the function that it was saved with. It is imported and runs.",
    ),
]
ClipOption = Annotated[
    Path | None,
    typer.Option(
        "--clip", metavar="PATH", help="Run on this image, video or folder of frames instead of binmat's photograph."
    ),
]
