"""What the program says of itself, and what saying it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import binmat
from binmat.cli.app import app

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]


def test_the_commands_are_those_that_scripts_rely_on() -> None:
    assert sorted(COMMANDS) == sorted(
        ["convert", "networks", "schemes", "recipes", "report", "export", "verify", "matte"]
    )


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_within_the_terminal(program, monkeypatch, command: str, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    status, out, err = program(command, "--help")
    assert (status, err) == (0, "")
    assert "Example" in out
    assert f"\n    binmat {command}" in out
    assert "--json" in out
    assert max(map(len, out.splitlines())) <= min(columns, 100)


def test_no_argument_shows_the_help(program) -> None:
    bare, asked = program(), program("--help")
    assert bare == asked
    assert bare.status == 0
    assert all(f"\n  {command}" in bare.out for command in COMMANDS)


def test_version(program) -> None:
    assert program("--version") == (0, f"binmat {binmat.__version__}\n", "")


def test_help_imports_neither_torch_nor_rich() -> None:
    code = f"""
import runpy, sys
from binmat.cli import main
for arguments in ([], ["--help"], *([name, "--help"] for name in {COMMANDS})):
    assert main(arguments) == 0
assert not {{"torch", "numpy", "rich", "PIL"}} & set(sys.modules), sorted(sys.modules)
sys.argv = ["binmat", "--version"]
try:
    runpy.run_module("binmat", run_name="__main__")
except SystemExit as end:
    assert end.code == 0
"""
    root = Path(binmat.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"binmat {binmat.__version__}\n")
