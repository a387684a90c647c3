"""Bad input: one line that says what is wrong and the way out, the right exit status, and nothing left behind."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conversion_files import FILES
from official_checkpoints import official_state
from safetensors.torch import save_file


class Bomb:
    """Unpickling it would run a command."""

    def __reduce__(self):
        return subprocess.run, (["true"],)


def _state() -> dict[str, torch.Tensor]:
    return dict(official_state("rvm_mobilenetv3_dgf"))


def _without_a_tensor() -> dict[str, torch.Tensor]:
    return {key: value for key, value in _state().items() if key != "project_mat.conv.bias"}


def _with_an_extra_tensor() -> dict[str, torch.Tensor]:
    return _state() | {"surplus.weight": torch.zeros(3)}


def _with_a_misshapen_tensor() -> dict[str, torch.Tensor]:
    return _state() | {"project_mat.conv.bias": torch.zeros(5)}


def _with_nan() -> dict[str, torch.Tensor]:
    return _state() | {"project_mat.conv.bias": torch.full((4,), torch.nan)}


def _with_infinity() -> dict[str, torch.Tensor]:
    return _state() | {"project_mat.conv.bias": torch.full((4,), torch.inf)}


CHECKPOINTS = {
    "missing file": (None, "no such file"),
    "empty file": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_text("hello"), "is not a checkpoint"),
    "pickle that runs code": (lambda path: path.write_bytes(pickle.dumps(Bomb())), "would run code"),
    "torch file that runs code": (lambda path: torch.save({"w": Bomb()}, path), "would run code"),
    "cut short": (lambda path: _cut(path), "cut short or damaged"),
    "keys of another network": (
        lambda path: torch.save({"a.weight": torch.zeros(1)}, path),
        "none of the networks binmat knows",
    ),
    "missing tensor": (lambda path: torch.save(_without_a_tensor(), path), "1 missing (project_mat.conv.bias)"),
    "extra tensor": (lambda path: torch.save(_with_an_extra_tensor(), path), "1 left over (surplus.weight)"),
    "misshapen tensor": (lambda path: torch.save(_with_a_misshapen_tensor(), path), "is [5] instead of [4]"),
    "NaN": (lambda path: torch.save(_with_nan(), path), "NaN or infinite"),
    "infinity": (lambda path: torch.save(_with_infinity(), path), "NaN or infinite"),
}


def _cut(path: Path) -> None:
    torch.save(_state(), path)
    os.truncate(path, path.stat().st_size // 2)


def _assert_one_line(result, status: int, message: str) -> None:
    assert result.status == status, result.err
    assert result.out == ""
    errors = [line for line in result.err.splitlines() if line.startswith("binmat: error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert result.err.endswith(errors[0] + "\n")
    assert "Traceback" not in result.err


@pytest.mark.parametrize(("make", "message"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_checkpoints(program, tmp_path: Path, make, message: str) -> None:
    path = tmp_path / "network.pth"
    if make is not None:
        make(path)
    before = sorted(tmp_path.iterdir())
    _assert_one_line(program("convert", path, "-o", tmp_path / "deep" / "out"), 1, message)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--scheme", "reactnett"], 1, "no scheme is called 'reactnett': did you mean 'reactnet'?"),
        (["--network", "rvm_mobilenet"], 1, "did you mean 'rvm_mobilenetv3'?"),
        (["--network", "modnet"], 1, "holds rvm_mobilenetv3, not modnet"),
        (["--recipe", "basline"], 1, "no recipe is called 'basline': did you mean 'baseline'?"),
        (["--recipe", "missing.toml"], 1, "recipe file missing.toml cannot be read"),
        (["--formats", "lce,onnx"], 1, "no export format is called 'onnx': known: lce"),
        (["--formats", "lec"], 1, "did you mean 'lce'?"),
        (["--set", "nowhere.*=float"], 1, "policy rule 'nowhere.*' matches no convolution or linear layer"),
        (["--set", "padding"], 1, "is not KEY=VALUE"),
        (["--set", "padding=two"], 1, "padding"),
        (["--size", "8x8"], 1, "too small for rvm_mobilenetv3"),
        (["--size", "64x64", "--downsample-ratio", "0.1"], 1, "leaves 6x6 pixels"),
        (["--size", "0x64"], 2, "'0x64' is not a size"),
        (["--size", "-64x64"], 2, "'-64x64' is not a size"),
        (["--size", "64"], 2, "for example 288x512"),
        (["--size", "64x64x3"], 2, "is not a size"),
        (["--size", "1.5x64"], 2, "is not a size"),
        (["--downsample-ratio", "0"], 2, "is not a positive number"),
        (["--downsample-ratio", "nan"], 2, "is not a positive number"),
        (["--downsample-ratio", "half"], 2, "is not a positive number"),
        (["--scheme", "bnn", "--recipe", "arm"], 2, "--scheme or --recipe, not both"),
        (["--clip", "missing.png"], 1, "no such image: missing.png"),
        (["--nonsense"], 2, "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options(program, checkpoint: Path, tmp_path: Path, options: list[str], status: int, message: str) -> None:
    _assert_one_line(program("convert", checkpoint, "-o", tmp_path / "out", *options), status, message)
    assert list(tmp_path.iterdir()) == []


def test_commands_and_arguments(program) -> None:
    _assert_one_line(program("covnert"), 2, "Did you mean 'convert'? See 'binmat --help'")
    _assert_one_line(program("convert", "rvm.pth"), 2, "See 'binmat convert --help'")
    _assert_one_line(program("verify"), 2, "See 'binmat verify --help'")


def test_an_output_that_is_a_file(program, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for output in (tmp_path / "out", tmp_path / "out" / "inside"):
        result = program("convert", checkpoint, "-o", output)
        _assert_one_line(result, 1, "name a")
        assert (tmp_path / "out").read_text() == "mine"


def test_an_output_that_cannot_be_written(program, checkpoint: Path, tmp_path: Path) -> None:
    # Nobody, root included, can make folders there.
    _assert_one_line(program("convert", checkpoint, "-o", "/proc/binmat"), 1, "/proc/binmat cannot be written")
    photo = tmp_path / "photo.png"
    photo.touch()
    _assert_one_line(program("matte", checkpoint, photo, "-o", "/dev/full/out"), 1, "cannot be written")


@pytest.mark.parametrize("name", ["notes.txt", "report.json", "model.safetensors"])
def test_an_output_that_holds_something_else(program, checkpoint: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    result = program("convert", checkpoint, "-o", tmp_path)
    _assert_one_line(result, 1, f"holds {name}, which is no earlier conversion: name a new or empty folder with -o")
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_an_earlier_conversion_with_a_file_of_the_users(program, checkpoint, converted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(converted, folder)
    (folder / "notes.txt").write_text("mine")
    _assert_one_line(program("convert", checkpoint, "-o", folder), 1, "holds notes.txt, which is no earlier conversion")


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(20)])
def test_images_that_cannot_be_read(program, checkpoint: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.png").write_bytes(content)
    result = program("matte", checkpoint, tmp_path / "photo.png", "-o", tmp_path / "out")
    _assert_one_line(result, 1, "photo.png cannot be read as an image")
    assert [file.name for file in tmp_path.iterdir()] == ["photo.png"]


def test_a_clip_that_cannot_be_read(program, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"no image")
    result = program("convert", checkpoint, "-o", tmp_path / "out", "--clip", tmp_path)
    _assert_one_line(result, 1, "photo.png cannot be read as an image")
    assert [file.name for file in tmp_path.iterdir()] == ["photo.png"]


def test_inputs_of_matte(program, checkpoint: Path, tmp_path: Path) -> None:
    _assert_one_line(program("matte", checkpoint, tmp_path / "no.png", "-o", tmp_path / "out"), 1, "no such image")
    _assert_one_line(program("matte", checkpoint, tmp_path, "-o", tmp_path / "out"), 1, "holds no images")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["verify", "export", "report"])
def test_folders_that_are_no_conversion(program, tmp_path: Path, command: str) -> None:
    options = ["--format", "lce"] if command == "export" else []
    _assert_one_line(program(command, tmp_path / "missing", *options), 1, "missing")
    _assert_one_line(program(command, tmp_path, *options), 1, f"{tmp_path} is ")


def test_damaged_conversions(program, converted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(converted, folder)
    (folder / "report.json").write_text("{")
    assert program("report", folder).status == 0, "nothing reads a report back"
    (folder / "model.tflite").unlink()
    _assert_one_line(program("verify", folder), 1, "holds no model file to verify: binmat export")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights.replace(b'\\"recipe\\"', b'\\"wrecke\\"'))
    fault = "has wrong metadata (recipe: Field required): convert the float checkpoint again"
    _assert_one_line(program("verify", folder), 1, fault)


def test_exporting_another_size_over_the_model_or_in_another_format(program, converted: Path) -> None:
    before = {name: (converted / name).read_bytes() for name in FILES}
    result = program("export", converted, "--format", "lce", "--size", "64x64")
    _assert_one_line(result, 1, "model.tflite is for the size that ")
    _assert_one_line(program("export", converted, "--format", "onnx"), 1, "no export format is called 'onnx'")
    assert {name: (converted / name).read_bytes() for name in FILES} == before


def test_a_converted_network_is_not_converted_again(program, converted: Path, tmp_path: Path) -> None:
    result = program("convert", converted, "-o", tmp_path / "out", "--scheme", "bnn")
    _assert_one_line(result, 1, "the network is converted already")


def test_a_float_file_in_place_of_a_conversions(program, converted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    shutil.copytree(converted, folder)
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    _assert_one_line(program("verify", folder), 1, "is not a converted folder")
