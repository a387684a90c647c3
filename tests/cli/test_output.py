"""What is printed: JSON of errors, full disks, narrow terminals, and names that would steer the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from binmat.cli.console import print_json, print_table, say
from binmat.cli.verify import verify
from binmat.errors import VerificationError
from binmat.pipeline import converted_folder
from binmat.printable import LONGEST, printable
from binmat.reports.tables import Table


@pytest.mark.parametrize(
    ("arguments", "status", "kind"),
    [
        (["report", "missing.pth"], 1, "CheckpointError"),
        (["report", "missing.pth", "--size", "none"], 2, "BadParameter"),
        (["matte", "a" * 300, "b" * 300, "-o", "out"], 1, "InputError"),
    ],
)
def test_an_error_as_json(program, tmp_path: Path, monkeypatch, arguments: list[str], status: int, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    result = program(*arguments, "--json")
    assert result.status == status
    said = json.loads(result.out)["error"]
    assert said["type"] == kind
    assert said["message"] in " ".join(result.err.split())


def test_a_verification_that_fails_is_one_json_document(monkeypatch, capsys, tmp_path: Path) -> None:
    class Failed:
        systematic = "a layer differs"

        def summary(self) -> dict[str, object]:
            return {"lce": {"mean_abs": float("nan")}}

        def to_json(self) -> dict[str, object]:
            return {}

        def check(self) -> None:
            raise VerificationError("a layer differs")

    monkeypatch.setattr(converted_folder, "verify_folder", lambda *_, **__: {"lce": Failed()})
    assert verify(tmp_path, as_json=True) == 1
    printed, errors = capsys.readouterr()
    said = json.loads(printed, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert said["error"] == {"type": "VerificationError", "message": "a layer differs"}
    assert said["summary"] == {"lce": {"mean_abs": None}}
    assert errors.endswith("binmat: error: a layer differs\n")


def test_json_has_no_nan(capsys) -> None:
    print_json({"a": float("nan"), "b": (float("inf"), -float("inf"), 1.5), "c": {"d": [float("nan")]}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, None, 1.5], "c": {"d": [None]}}


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["report", "missing.pth", "--json"]])
@pytest.mark.parametrize("full", ["stdout", "stderr", "both"])
def test_a_full_disk(arguments: list[str], full: str) -> None:
    with open("/dev/full", "w") as disk:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        streams |= {name: disk for name in streams if full in (name, "both")}
        done = subprocess.run([sys.executable, "-m", "binmat", *arguments], text=True, **streams)
    assert done.returncode == (0 if full == "stderr" and len(arguments) == 1 else 1)
    if full == "stdout":
        assert done.stderr.startswith("binmat: error: ") and done.stderr.count("\n") == 1


def test_a_reader_that_has_read_enough() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "binmat", "--version"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("columns", ["1", "20", "80"])
def test_numbers_are_shown_whole_on_a_narrow_terminal(capsys, monkeypatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    print_table(["layer", "textbook, G operations", "storage, MiB"], [["aspp.conv", "1234.5678", "9,876,543"]], "Costs")
    said = capsys.readouterr().out
    for word in ("aspp.conv", "1234.5678", "9,876,543", "operations"):
        assert word in said
    say("a sentence of some words", indent="  ")
    assert capsys.readouterr().out.split() == ["a", "sentence", "of", "some", "words"]


def test_names_do_not_steer_the_terminal(program, capfd) -> None:
    assert printable("a\x1b[2J\r\u202eb\nc\udcff") == "a\\x1b[2J\\r\\u202eb\nc\\udcff"
    assert printable("naïve 名前") == "naïve 名前"
    assert len(printable("a" * 5000)) == LONGEST + 3
    result = program("report", "missing\x1b[31m.pth")
    assert "missing\\x1b[31m.pth" in result.err
    print_table(["name"], [["a\x1b[31m"]])
    assert "a\\x1b[31m" in capfd.readouterr().out
    table = Table("", ["name"], [["a\x1b[31m\nb"]], "l")
    assert "a\\x1b[31m" in table.render("simple")


@pytest.mark.parametrize("command", ["convert", "verify", "export", "report", "matte"])
def test_names_of_more_than_255_characters(program, tmp_path: Path, monkeypatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    long = "n" * 300
    options = {
        "convert": ["-o", "out"],
        "export": ["--format", "lce"],
        "matte": [long + ".png", "-o", "out"],
    }
    result = program(command, long, *options.get(command, []))
    assert result.status == 1
    assert "Traceback" not in result.err
    assert result.err.count("binmat: error: ") == 1 and "ame too long" in result.err


def test_names_beyond_ascii_in_a_locale_of_ascii(tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "binmat", "report", "fehlt_ü_名.pth", "--json"]
    done = subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(b"binmat: error: no such file: fehlt_") and done.stderr.count(b"\n") == 1
    assert json.loads(done.stdout)["error"]["type"] == "CheckpointError"
