"""The folder that ``binmat convert`` writes and the other commands read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binmat.errors import CheckpointError, InputError

WEIGHTS = "model.safetensors"
MODEL = "model.tflite"
RECIPE = "recipe.toml"
REPORT = "report.json"
REPORT_TEXT = "report.md"
#: Everything that a conversion may have written.
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


def is_converted(path: Path) -> bool:
    """Whether a path is a folder with a converted network and its report."""
    return (path / WEIGHTS).is_file() and (path / REPORT).is_file()


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A folder to write a conversion into, which becomes the target when the block ends without an error.

    Until then the target is as it was, and after an error nothing is left. An earlier conversion in it is replaced.
    Raises InputError for a target that holds anything else or cannot be written.
    """
    _check_target(target)
    try:
        # Within a target that exists (it may be where another disk is mounted), else beside what exists of its path.
        place = next(path for path in (target, *target.parents) if path.exists())
        stage = place / f".binmat-{os.getpid()}"
        stage.mkdir()
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        yield stage
        _publish(stage, target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _check_target(target: Path) -> None:
    try:
        if not target.exists():
            return
        if not target.is_dir():
            raise InputError(f"{target} is a file: name a folder to write to with -o")
        names = {entry.name for entry in target.iterdir()}
    except OSError as error:
        raise _unwritable(target, error) from error
    foreign = sorted(names if names and not _is_conversion(target) else names - set(FILES))
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


def _publish(stage: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        stage.rename(target)
        return
    for name in FILES:
        if (stage / name).exists():
            os.replace(stage / name, target / name)
        else:
            (target / name).unlink(missing_ok=True)


def _unwritable(target: Path, error: OSError) -> InputError:
    return InputError(f"{target} cannot be written ({error.strerror or error}): name another folder with -o")
