"""A folder is written whole or not at all, however the process ends; what a dead process left is cleared."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from binmat.atomic_folder import atomic_folder
from binmat.atomic_write import atomic_write
from binmat.errors import InputError
from binmat.stage import clear_stale_stages, ready, stage

#: Begins to write, says so, and waits for the end.
WRITER = """
import sys, time
from pathlib import Path
from binmat.atomic_folder import atomic_folder
from binmat.atomic_write import atomic_write
target = Path(sys.argv[2])
with (atomic_folder if sys.argv[1] == "folder" else atomic_write)(target) as temporary:
    (temporary / "a" if sys.argv[1] == "folder" else temporary).write_text("new")
    print("begun", flush=True)
    time.sleep(60)
"""


def begin(kind: str, target: Path, *before: str) -> subprocess.Popen[str]:
    """A process that has begun to write. before: of its command line."""
    command = [*before, sys.executable, "-c", WRITER, kind, str(target)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=default_signals
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def default_signals() -> None:
    """The tests themselves may run in the background of a shell, or under nohup, where signals are ignored."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def end(process: subprocess.Popen[str], number: signal.Signals) -> int:
    process.send_signal(number)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_a_killed_process_left_is_cleared_by_the_next(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
        (target / "a").write_text("old")
    assert end(begin(kind, target), signal.SIGKILL) == -signal.SIGKILL
    place = target if kind == "folder" else tmp_path
    assert [path.name for path in place.iterdir() if path.name.startswith(".binmat-")]
    if kind == "folder":
        assert (target / "a").read_text() == "old"
        with atomic_folder(target) as folder:
            (folder / "a").write_text("newer")
        assert [path.name for path in target.iterdir()] == ["a"]
    else:
        with atomic_write(target) as temporary:
            temporary.write_text("newer")
        assert [path.name for path in tmp_path.iterdir()] == ["target"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_process_that_is_told_to_end_clears_its_stage(tmp_path: Path, number: signal.Signals) -> None:
    status = end(begin("folder", tmp_path / "target"), number)
    assert status == (-number if number == signal.SIGINT else 128 + number)
    assert list(tmp_path.iterdir()) == []


def test_under_nohup_the_terminal_may_close(tmp_path: Path) -> None:
    process = begin("folder", tmp_path / "target", "nohup")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    assert end(process, signal.SIGTERM) == 128 + signal.SIGTERM


def test_a_living_process_keeps_its_stage(tmp_path: Path) -> None:
    process = begin("folder", tmp_path / "target")
    clear_stale_stages(tmp_path)
    [folder] = tmp_path.iterdir()
    assert (folder / "a").read_text() == "new"
    assert end(process, signal.SIGTERM) == 128 + signal.SIGTERM


def test_two_at_once_in_one_process(tmp_path: Path) -> None:
    with stage(tmp_path) as first, stage(tmp_path) as second:
        assert first != second
        assert first.is_dir() and second.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_the_files_move_is_made_good(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("new")
    (tmp_path / "b").write_text("old")
    complete = ready(tmp_path / f".binmat-{'0' * 32}")
    (complete / "deep").mkdir(parents=True)
    (complete / "b").write_text("new")
    (complete / "deep" / "c").write_text("new")
    clear_stale_stages(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: path.read_text() for path in files} == dict.fromkeys("abc", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "deep"]


def test_a_signal_while_the_files_move_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def interrupted(old: Path, new: Path) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        replace(old, new)

    for name in "ab":
        (tmp_path / name).write_text("old")
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "replace", interrupted)
    with atomic_folder(tmp_path) as folder:
        for name in "ab":
            (folder / name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "b": "new"}
    assert signal.getsignal(signal.SIGTERM) is before


def test_folders_of_the_users_are_left_alone(tmp_path: Path) -> None:
    for name in (".binmat-notes", ".binmat-1234", "binmat"):
        (tmp_path / name).mkdir()
    (tmp_path / f".binmat-{'0' * 32}").symlink_to(tmp_path / "binmat")
    before = sorted(tmp_path.iterdir())
    clear_stale_stages(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(ValueError, match="stop"), atomic_folder(tmp_path) as folder:
        (folder / "a").write_text("new")
        raise ValueError("stop")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]
    with pytest.raises(InputError, match="is a file: name a folder"), atomic_folder(tmp_path / "a"):
        pass
