"""Arguments and options that several commands share."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, NamedTuple

import typer


class Size(NamedTuple):
    """Height and width in pixels, written HxW."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def parse_size(text: str) -> Size:
    """HxW with two positive integers. Raises typer.BadParameter."""
    found = re.fullmatch(r"([0-9]{1,9})[xX]([0-9]{1,9})", text.strip())
    size = Size(int(found[1]), int(found[2])) if found else None
    if size is None or min(size) < 1:
        raise typer.BadParameter(f"'{text}' is not a size: give height and width in pixels, for example 288x512.")
    return size


def parse_ratio(text: str) -> float:
    """A positive finite number. Raises typer.BadParameter."""
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 0 < ratio < math.inf:
        raise typer.BadParameter(f"'{text}' is not a positive number: give for example 0.25.")
    return ratio


SizeOption = Annotated[
    Size | None,
    typer.Option(
        "--size",
        metavar="HxW",
        parser=parse_size,
        help="Height and width of the frames. Default: what MODEL was converted for, else the network's usual size.",
    ),
]
RatioOption = Annotated[
    float | None,
    typer.Option(
        "--downsample-ratio",
        metavar="R",
        parser=parse_ratio,
        help="Predict at this share of the size and enlarge the result: RVM with its guided filter. "
        "Default: what MODEL was converted for, else 1.",
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")]
ConvertedArgument = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that binmat convert wrote.")]
NetworkOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help="What this network alone takes, such as cost_limit of pam (binmat networks lists it); may be repeated.",
    ),
]
