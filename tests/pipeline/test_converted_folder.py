"""What a folder may hold before a conversion is written to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from binmat.errors import InputError
from binmat.pipeline.converted_folder import check_free
from binmat.stage import stage


def test_what_a_killed_conversion_left_blocks_nothing(tmp_path: Path) -> None:
    left = tmp_path / f".binmat-{'0' * 32}"
    left.mkdir()
    (left / "model.tflite").write_bytes(b"half")
    check_free(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with stage(tmp_path), pytest.raises(InputError, match=r"holds \.binmat-"):
        check_free(tmp_path)
