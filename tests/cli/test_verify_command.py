"""binmat verify and binmat export: the file on disk is what is judged."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conversion_files import FILES

import binmat
from binmat.backends.lce.emitter import RULES
from binmat.backends.lce.rules.elementwise import unary
from binmat.backends.lce.tflite.reader import read_model
from binmat.data.image import photograph, write_image
from binmat.pipeline import deployment
from binmat.verification.file_check import RecordedRun
from binmat.verification.results import SignFlips


@pytest.fixture
def folder(converted: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "converted"
    shutil.copytree(converted, copy)
    return copy


def _words(text: str) -> str:
    return " ".join(text.split())


def test_what_convert_wrote_is_right(program, converted: Path, tmp_path: Path) -> None:
    write_image(photograph(50, 50), tmp_path / "photo.png")
    status, out, err = program("verify", converted, "--clip", tmp_path / "photo.png")
    assert status == 0, err
    words = _words(out)
    assert "The model file computes what the PyTorch graph computes" in words
    assert "inputs: clip)" in words and "By themselves on wide values" in words
    assert "signs equal" in words
    assert "flipped" in words
    outputs = [line.split()[1] for line in out.splitlines() if line.startswith("│")]
    assert [name for name in outputs if name in ("fgr", "pha", "r1", "r2", "r3", "r4")] == [
        "fgr", "pha", "r1", "r2", "r3", "r4",
    ]  # fmt: skip


def test_another_files_outputs_are_found_out(program, folder: Path) -> None:
    """One float of the file on disk is changed; everything else fits."""
    content = (folder / "model.tflite").read_bytes()
    bias = binmat.load(folder).get_parameter("project_mat.conv.bias").detach().numpy().tobytes()
    assert content.count(bias) == 1
    (folder / "model.tflite").write_bytes(content.replace(bias, torch.full((4,), 0.4321).numpy().tobytes()))
    status, out, err = program("verify", folder, "--json")
    assert status == 1
    assert "the file was changed after it was written: tensor '" in err
    assert json.loads(out)["error"]["type"] == "VerificationError"


def test_a_damaged_file_is_an_error_and_no_crash(program, folder: Path) -> None:
    os.truncate(folder / "model.tflite", (folder / "model.tflite").stat().st_size // 2)
    status, out, err = program("verify", folder)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1].startswith("binmat: error: ")


@pytest.mark.slow
def test_training_asks_for_a_new_export(program, folder: Path) -> None:
    network = binmat.load(folder)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("threshold"):
                parameter += 0.1
    binmat.save(network, folder / "model.safetensors")
    assert "export it again" in program("verify", folder).err
    old = (folder / "model.tflite").read_bytes()
    status, out, err = program("export", folder, "--format", "lce")
    assert status == 0, err
    assert str(folder / "model.tflite") in out
    assert "The model file computes what the PyTorch graph computes" in _words(out)
    assert (folder / "model.tflite").read_bytes() != old
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    assert program("verify", folder).status == 0


@pytest.mark.slow
def test_export_of_another_size(program, converted: Path, tmp_path: Path) -> None:
    before = {name: (converted / name).read_bytes() for name in FILES}
    target = tmp_path / "wide.tflite"
    options = ["--size", "40x64", "--downsample-ratio", "0.5", "-o", target, "--json"]
    status, out, err = program("export", converted, "--format", "lce", *options)
    assert status == 0, err
    said = json.loads(out)
    assert (said["file"], said["bytes"]) == (str(target), target.stat().st_size)
    assert said["verification"]["lce"]["systematic"] is False
    assert [info.shape for info in read_model(target.read_bytes()).inputs][:2] == [(1, 40, 64, 3), (1, 10, 16, 16)]
    assert {name: (converted / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize(("name", "message"), [("model.txt", "does not end in .tflite"), ("no/m.tflite", "no folder")])
def test_a_bad_name_for_an_export_is_refused_at_once(
    program, converted: Path, tmp_path, name: str, message: str
) -> None:
    status, out, err = program("export", converted, "--format", "lce", "-o", tmp_path / name)
    assert (status, out) == (1, "")
    assert message in err.splitlines()[-1]


def test_an_export_that_is_wrong_is_not_written(program, monkeypatch, folder: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(RULES, torch.ops.aten.sigmoid.default, lambda e, x: unary(e, "TANH", x))
    before = {name: (folder / name).read_bytes() for name in FILES}
    status, out, err = program("export", folder, "--format", "lce")
    assert (status, out) == (1, "")
    assert "(aten.sigmoid.default) differs from torch" in err
    assert program("export", folder, "--format", "lce", "-o", tmp_path / "new.tflite").status == 1
    assert not (tmp_path / "new.tflite").exists()
    assert {name: (folder / name).read_bytes() for name in FILES} == before


@pytest.mark.slow
def test_flips_by_layer(program, monkeypatch, converted: Path) -> None:
    def flipping(lowered: object, frames: object, recorded: RecordedRun) -> None:
        recorded.result.flips[:] = [
            SignFlips("binarize", "backbone.a", 0, 0, 100, 0.0),
            SignFlips("binarize_1", "decoder.b", 0, 2, 200, 1.5e-7),
            SignFlips("binarize_1", "decoder.b", 1, 4, 200, 2.5e-7),
        ]

    monkeypatch.setattr(deployment, "compare_end_to_end", flipping)
    status, out, _ = program("verify", converted)
    assert status == 0
    [row] = [line for line in out.splitlines() if "decoder.b" in line]
    # Two frames.
    assert row.split()[1:-1:2] == ["decoder.b", "6", "400", "2.5e-07"]
    assert "backbone.a" not in out
    assert "backbone.a" in program("verify", converted, "--layers").out
