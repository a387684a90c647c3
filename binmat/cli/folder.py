"""The folder that ``binmat convert`` writes and the other commands read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from binmat.atomic_folder import atomic_folder
from binmat.errors import CheckpointError, InputError

WEIGHTS = "model.safetensors"
MODEL = "model.tflite"
RECIPE = "recipe.toml"
REPORT = "report.json"
REPORT_TEXT = "report.md"
#: What a conversion writes.
FILES = (WEIGHTS, MODEL, RECIPE, REPORT, REPORT_TEXT)


@dataclass(frozen=True)
class Converted:
    """A converted folder. size, downsample_ratio: what it was converted for."""

    path: Path
    size: tuple[int, int]
    downsample_ratio: float


def read_converted(path: Path) -> Converted:
    """What a folder was converted for, from its report.json. Raises CheckpointError."""
    way_out = "name a folder that binmat convert wrote"
    if not path.exists():
        raise CheckpointError(f"no such folder: {path}: {way_out}")
    if not is_converted(path):
        raise CheckpointError(f"{path} is not a converted folder (no {WEIGHTS} and {REPORT} in it): {way_out}")
    try:
        call = _read_report(path)["input"]
        return Converted(path, (int(call["height"]), int(call["width"])), float(call["downsample_ratio"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / REPORT} is damaged ({error}): convert the checkpoint again") from error


def read_verification(path: Path) -> dict[str, dict[str, Any]] | None:
    """What verifying a converted folder found, from its report.json; None where its files are others by now."""
    try:
        report = _read_report(path)
        verified: dict[str, str] = report["storage"]["sha256"]
        for name in (WEIGHTS, MODEL):
            if sha256((path / name).read_bytes()).hexdigest() != verified[name]:
                return None
        found: dict[str, dict[str, Any]] = report["verification"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def is_converted(path: Path) -> bool:
    """Whether a path is a folder with a converted network and its report."""
    return (path / WEIGHTS).is_file() and (path / REPORT).is_file()


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A folder to write a conversion into, which becomes the target when the block ends without an error.

    An earlier conversion in the target is replaced, and is still there after an error. Raises InputError for a target
    that holds anything else or cannot be written.
    """
    _check_target(target)
    with atomic_folder(target) as stage:
        yield stage


def _check_target(target: Path) -> None:
    if not target.is_dir():
        return
    try:
        names = {entry.name for entry in target.iterdir()}
    except OSError as error:
        raise InputError(f"{target} cannot be read ({error.strerror}): name another folder with -o") from error
    foreign = sorted(names - set(FILES) if _is_conversion(target) else names)
    if foreign:
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise InputError(
            f"{target} holds {foreign[0]}{others}, which is no earlier conversion: name a new or empty folder with -o"
        )


def _is_conversion(path: Path) -> bool:
    """Whether the report in a folder is one of binmat's: a file of the same name may be anybody's."""
    try:
        return is_converted(path) and {"schema", "network", "counts"} <= _read_report(path).keys()
    except (OSError, ValueError, AttributeError):
        return False


def _read_report(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((path / REPORT).read_text(encoding="utf-8"))
    return report
