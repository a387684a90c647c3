"""Names are looked up before torch is imported, and are those that the library knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from binmat.backends.registry import BACKENDS
from binmat.cli.names import format_names, recipe_names, scheme_names
from binmat.quantizers import SCHEMES
from binmat.transforms import recipe


def test_the_names_are_those_that_the_library_knows() -> None:
    assert scheme_names() == list(SCHEMES)
    assert sorted(recipe_names()) == recipe.recipe_names()
    assert format_names() == list(BACKENDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "there.pth", "-o", "out", "--scheme", "bnm"], "no scheme is called 'bnm': did you mean 'bnn'?"),
        (["convert", "there.pth", "-o", "out", "--scheme", ""], "no scheme is called ''"),
        (["convert", "there.pth", "-o", "out", "--recipe", "amr"], "no recipe is called 'amr': did you mean 'arm'?"),
        (["convert", "there.pth", "-o", "out", "--formats", "lce,onnx"], "no export format is called 'onnx'"),
        (["export", "there", "--format", "lec"], "no export format is called 'lec': did you mean 'lce'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_unknown_names(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "there.pth").write_bytes(b"")
    program = (
        "import sys\n"
        "from binmat.cli import main\n"
        f"status = main({arguments!r})\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(status)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1
