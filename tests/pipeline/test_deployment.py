"""Deployment: what it writes, and what its verification reports on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from example_networks import UNet, randomize

from binmat.errors import ExportError, UnknownNameError
from binmat.pipeline.deployment import Deployment, deploy, export, read_model_file, verify
from binmat.transforms.convert import convert


@pytest.fixture(scope="module")
def deployment() -> Deployment:
    network = convert(randomize(UNet()), "reactnet").eval()
    return deploy(network, example=network.example(24, 32))


def test_progress_counts_every_comparison(deployment: Deployment) -> None:
    seen: list[tuple[int, int]] = []
    deployment.verify(progress=lambda done, count: seen.append((done, count)))
    # Network against graph, operators by themselves in four shares, two frames.
    assert seen == [(done, 7) for done in range(1, 8)]


def test_the_file_is_written_whole(deployment: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    deployment.write(path)
    assert read_model_file(path) == deployment.model.content and os.listdir(tmp_path) == ["model.tflite"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_failed_write_leaves_nothing_behind(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "no room")

    path = tmp_path / "model.tflite"
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ExportError, match=f"cannot write {path}: no room"):
        deployment.write(path)
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_one_line(deployment: Deployment, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot write .*missing"):
        deployment.write(tmp_path / "missing" / "model.tflite")


def test_unknown_formats_are_refused_before_any_work(tmp_path: Path) -> None:
    for call in (lambda: export(None, tmp_path / "model.onnxx"), lambda: deploy(None, format="tflite")):
        with pytest.raises(UnknownNameError):
            call()
    with pytest.raises(ExportError, match="cannot be read"):
        verify(None, tmp_path / "none.tflite")
