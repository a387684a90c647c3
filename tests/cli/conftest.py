"""The program in this process, and files that its tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from official_checkpoints import official_state

from binmat.cli import main


class Result(NamedTuple):
    status: int
    out: str
    err: str


Program = Callable[..., Result]


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str]) -> Program:
    """Run ``binmat`` with these arguments: exit status, stdout and stderr."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return Result(status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RVM mobilenetv3 in the official layout."""
    path = tmp_path_factory.mktemp("checkpoints") / "rvm_mobilenetv3.pth"
    torch.save(official_state("rvm_mobilenetv3_dgf"), path)
    return path


@pytest.fixture(scope="session")
def converted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``binmat convert`` makes of it at 32x48 with the default scheme; to be read only."""
    folder = tmp_path_factory.mktemp("converted") / "rvm"
    assert main(["convert", str(checkpoint), "--size", "32x48", "-o", str(folder)]) == 0
    return folder
