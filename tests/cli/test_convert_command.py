"""binmat convert: what it writes, what it says, and that it leaves nothing half done."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from conversion_files import FILES

import binmat
from binmat.backends.lce.backend import LceBackend
from binmat.backends.lce.emitter import RULES
from binmat.backends.lce.rules.elementwise import unary
from binmat.backends.lce.tflite.reader import read_model
from binmat.backends.registry import BACKENDS
from binmat.data.image import photograph, write_image
from binmat.pipeline import deployment
from binmat.quantizers import SCHEMES
from binmat.transforms.convert import recipe_of


def _report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def _check_folder(folder: Path, scheme: str, size: tuple[int, int]) -> None:
    """Everything is there and fits together; the verification found rounding only."""
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    report = _report(folder)
    assert report["schema"] == 1
    assert report["network"] == "rvm_mobilenetv3"
    assert (report["input"]["height"], report["input"]["width"]) == size
    for name in ("model.safetensors", "model.tflite"):
        assert report["storage"]["files"][name] == (folder / name).stat().st_size
    counts = report["counts"]["bimatting"]
    assert counts["converted"]["ops"] < counts["float"]["flops"] / 4
    lce = report["verification"]["lce"]
    assert lce["systematic"] is False
    assert lce["operators"] >= 300
    # How far rounding carries end to end depends on the weights; that nothing else differs is what the rest says.
    assert 0 <= lce["mean_abs"] <= lce["max_abs"] < 10
    assert 0 <= lce["flipped_signs"] < 0.4
    assert report["verification"]["lowered graph, float64"]["max_abs"] < 1e-12
    runs = {"lce optimized, photograph", "lce reference, photograph", "lce, wide values"}
    assert runs <= report["verification"].keys()
    recipe = binmat.Recipe.from_toml((folder / "recipe.toml").read_text(), "recipe.toml")
    network = binmat.load(folder)
    assert recipe == recipe_of(network)
    assert recipe.scheme == scheme
    model = read_model((folder / "model.tflite").read_bytes())
    assert model.inputs[0].shape == (1, *size, 3)
    assert [info.name for info in model.outputs] == ["fgr", "pha", "r1", "r2", "r3", "r4"]
    fgr, pha, *_ = network(photograph(*size))
    assert fgr.isfinite().all()
    assert 0 <= pha.min() <= pha.max() <= 1


def test_the_folder(converted: Path) -> None:
    _check_folder(converted, "reactnet", (32, 48))
    # Permissions are those of any new file, and nothing else was left where it was made.
    probe = converted.parent / "probe"
    probe.touch()
    assert {(converted / name).stat().st_mode for name in FILES} == {probe.stat().st_mode}
    probe.unlink()
    assert list(converted.parent.iterdir()) == [converted]


def test_trained_weights_are_those_of_the_checkpoint(checkpoint: Path, converted: Path) -> None:
    plain, binary = torch.load(checkpoint), binmat.load(converted).state_dict()
    assert plain.keys() <= binary.keys()
    changed = {key for key, value in plain.items() if not torch.equal(binary[key], value.to(binary[key].dtype))}
    # Calibration gives norms behind binary layers the statistics of binary sums.
    assert {key.rpartition(".")[2] for key in changed} == {"running_mean", "running_var"}


@pytest.mark.slow
def test_options_and_an_earlier_conversion(program, checkpoint: Path, converted: Path, tmp_path: Path) -> None:
    folder, frames = tmp_path / "out", tmp_path / "frames"
    shutil.copytree(converted, folder)
    frames.mkdir()
    for number in (2, 10):
        write_image(photograph(40, 60 + number), frames / f"{number}.png")
    options = ["--recipe", "arm", "--set", "aspp.*=float", "--set", "options.estimator=clip"]
    options += ["--size", "65x49", "--downsample-ratio", "0.5", "--clip", frames]
    status, out, err = program("convert", checkpoint, "-o", folder, *options)
    assert status == 0, err
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    report = _report(folder)
    assert report["input"] == {"height": 65, "width": 49, "downsample_ratio": 0.5}
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert layers["aspp.aspp1.0"]["reason"] == "policy: aspp.*=float"
    assert layers["refiner.conv.0"]["precision"] == "binary"
    assert layers["refiner.conv.0"]["macs"] > 0
    network = binmat.load(folder)
    assert (network.conversion.size, network.conversion.downsample_ratio) == ((65, 49), 0.5)
    recipe = recipe_of(network)
    assert recipe is not None
    assert (recipe.name, recipe.padding, recipe.options) == ("arm", "one", {"estimator": "clip"})
    assert "lce optimized, clip" in report["verification"]

    binary = sum(layer["precision"] == "binary" for layer in report["layers"])
    assert f"recipe arm: {binary} of {len(layers)} layers are 1-bit" in " ".join(out.split())
    for convention in ("textbook", "bimatting"):
        assert f"{convention}" in out
        assert f"{report['counts'][convention]['ratio']:.1f}x" in out
    assert "The model file computes what the PyTorch graph computes" in " ".join(out.split())
    assert all(str(folder / name) in out for name in FILES)
    for step in ("read the checkpoint", "trace and rewrite", "verify it", "together"):
        assert any(line.strip().startswith(step) and line.endswith(" s") for line in err.splitlines())


@pytest.mark.slow
def test_a_conversion_at_another_size_keeps_its_ratio(program, converted: Path, tmp_path: Path) -> None:
    for folder, source, options in (
        ("half", converted, ["--size", "64x64", "--downsample-ratio", "0.5"]),
        ("larger", tmp_path / "half", ["--size", "80x64"]),
    ):
        assert program("convert", source, "-o", tmp_path / folder, *options).status == 0
    assert _report(tmp_path / "larger")["input"] == {"height": 80, "width": 64, "downsample_ratio": 0.5}
    network = binmat.load(tmp_path / "larger")
    assert binmat.report(network).to_json()["input"] == _report(tmp_path / "larger")["input"]
    assert network.conversion.size == (80, 64)


def test_a_systematic_difference_is_an_error(program, monkeypatch, checkpoint: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(RULES, torch.ops.aten.sigmoid.default, lambda e, x: unary(e, "TANH", x))
    status, out, err = program("convert", checkpoint, "-o", tmp_path / "out", "--size", "32x48")
    assert (status, out) == (1, "")
    assert "binmat: error: on photograph, LCE's optimized kernel: layer '" in err
    assert "(aten.sigmoid.default) differs from torch on equal inputs" in err
    assert list(tmp_path.iterdir()) == []


class _Renamed(LceBackend):
    """A second format, which happens to be the first one under another name."""

    name, title, suffix = "other", "the other", ".other.tflite"


@pytest.mark.slow
def test_formats_are_obeyed(program, monkeypatch, checkpoint: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(BACKENDS, "other", _Renamed())
    folder = tmp_path / "out"
    options = ("convert", checkpoint, "-o", folder, "--size", "32x48", "--formats")
    status, out, err = program(*options, "lce, other")
    assert status == 0, err
    assert {file.name for file in folder.iterdir()} == {*FILES, "model.other.tflite"}
    assert {"lce", "other"} <= _report(folder)["verification"].keys()
    assert "model.other.tflite" in _report(folder)["storage"]["files"] and "model.other.tflite" in out
    (folder / "model.other.tflite").write_bytes((folder / "model.tflite").read_bytes()[:-4096])
    assert program("verify", folder).status == 1, "every model file of the folder is judged"
    # A model file of the earlier conversion would not be that of the new weights.
    assert program(*options, "lce").status == 0
    assert {file.name for file in folder.iterdir()} == set(FILES)
    status, _, err = program(*options, "lce,onx")
    assert status == 1 and "no export format is called 'onx'" in err


@pytest.mark.parametrize("end", ["interrupt", "termination", "full disk"])
def test_what_was_begun_is_cleared_away(program, monkeypatch, checkpoint: Path, converted: Path, tmp_path, end) -> None:
    folder = tmp_path / "out"
    shutil.copytree(converted, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def stop(*_: object, **__: object) -> None:
        assert any(file.name == "model.tflite" for file in tmp_path.rglob(".binmat-*/*")), "nothing was begun"
        if end == "interrupt":
            raise KeyboardInterrupt
        if end == "termination":
            os.kill(os.getpid(), signal.SIGTERM)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deployment.Deployment, "verify", lambda *_, **__: stop())
    arguments = ("convert", checkpoint, "-o", folder, "--size", "32x48")
    if end == "termination":
        with pytest.raises(SystemExit) as termination:
            program(*arguments)
        assert termination.value.code == 128 + signal.SIGTERM
    else:
        status, out, err = program(*arguments)
        assert out == ""
        assert "Traceback" not in err
        assert status == (130 if end == "interrupt" else 1)
        assert ("No space left on device" in err) == (end == "full disk")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["288x512", "161x289"])
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_every_scheme_converts_and_verifies(program, checkpoint: Path, tmp_path: Path, scheme: str, size: str) -> None:
    folder = tmp_path / scheme
    status, out, err = program("convert", checkpoint, "--scheme", scheme, "--size", size, "-o", folder, "--json")
    assert status == 0, err
    assert json.loads(out) == _report(folder)
    height, width = size.split("x")
    _check_folder(folder, scheme, (int(height), int(width)))
    if size == "161x289":
        status, out, err = program("verify", folder)
        assert (status, "computes what the PyTorch graph computes" in " ".join(out.split())) == (0, True), err
