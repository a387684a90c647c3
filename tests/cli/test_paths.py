"""Paths that do not exist are named before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "missing.pth", "-o", "out"], "no such file: missing.pth"),
        (["convert", "there.pth", "-o", "out", "--clip", "missing.png"], "no such image: missing.png"),
        (["verify", "missing"], "missing does not exist: name a folder that binmat convert wrote"),
        (["export", "missing", "--format", "lce"], "missing does not exist: name a folder that binmat convert wrote"),
        (["report", "there.pth", "missing.pth"], "no such file: missing.pth"),
        (["matte", "missing.pth", "there.png", "-o", "out"], "no such file: missing.pth"),
        (["matte", "there.pth", "missing.png", "-o", "out"], "no such image: missing.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_missing_paths(tmp_path: Path, arguments: list[str], message: str) -> None:
    for name in ("there.pth", "there.png"):
        (tmp_path / name).write_bytes(b"")
    program = (
        "import sys\n"
        "from binmat.cli import main\n"
        f"status = main({arguments!r})\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("binmat: error: ") and message in line
