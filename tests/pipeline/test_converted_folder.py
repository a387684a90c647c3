"""What a folder may hold before a conversion is written to it."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from binmat.errors import InputError
from binmat.pipeline.converted_folder import check_free
from binmat.stage import ready, stage


def test_what_a_killed_conversion_left_blocks_nothing(tmp_path: Path) -> None:
    left = tmp_path / f".binmat-{'0' * 32}"
    left.mkdir()
    (left / "model.tflite").write_bytes(b"half")
    check_free(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with stage(tmp_path), pytest.raises(InputError, match=r"holds \.binmat-"):
        check_free(tmp_path)


def test_nor_does_it_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    left = tmp_path / f".binmat-{'0' * 32}"
    left.mkdir()
    check_free(tmp_path)
    ready(left).mkdir()  # Whole, so its files are yet to be moved: it is not passed over.
    with pytest.raises(InputError, match=r"holds \.binmat-0+\.ready"):
        check_free(tmp_path)
