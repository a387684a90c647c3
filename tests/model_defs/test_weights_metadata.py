from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from binmat.errors import CheckpointError
from binmat.model_defs.weights_metadata import METADATA_KEY, VERSION, WeightsMetadata, read_weights_metadata

ABOUT = WeightsMetadata("rvm_mobilenetv3", {"refiner": "fast_guided_filter"}, 'scheme = "bnn"', (288, 512), 0.25)


def test_what_is_written_is_read(tmp_path):
    # The content decides, not the name.
    for name in ("model.safetensors", "renamed.bin"):
        save_file({"x": torch.zeros(1)}, tmp_path / name, metadata=ABOUT.to_header())
        assert read_weights_metadata(tmp_path / name) == ABOUT


def test_other_files_have_none(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "plain.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    torch.save({"x": torch.zeros(1)}, tmp_path / "net.pth")
    (tmp_path / "empty").touch()
    for path in (*tmp_path.iterdir(), tmp_path, tmp_path / "absent"):
        assert read_weights_metadata(path) is None, path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": ...}, "size: Field required"),
        ({"network": 3}, "network: Input should be a valid string"),
        ({"network": ""}, "network"),
        ({"config": []}, "config"),
        ({"config": {"refiner": ["x"]}}, "config.refiner"),
        ({"recipe": 1}, "recipe"),
        ({"size": [288]}, "size"),
        ({"size": [288, 0]}, "size.1"),
        ({"size": ["288", 512]}, "size.0"),
        ({"size": [10**5, 10**5]}, "size: .*more than 67,108,864 pixels"),
        ({"downsample_ratio": float("nan")}, "downsample_ratio"),
        ({"downsample_ratio": -1}, "downsample_ratio"),
        ({"progress": {"a": 1.5}}, "progress.a"),
        ({"progress": {"a\nb": float("inf")}}, r"progress.a\\nb"),
        ({"progress": None}, "progress"),
        ({"factory": 1}, "factory"),
        ({"colour": "red"}, "colour"),
        ({"version": "1"}, "version"),
        ({"version": -1}, "version"),
        ({"version": True}, "version"),
    ],
)
def test_what_does_not_fit_the_schema_is_named_with_the_way_out(tmp_path, change, words):
    about = json.loads(ABOUT.to_header()[METADATA_KEY]) | change
    text = json.dumps({key: value for key, value in about.items() if value is not ...})
    save_file({"x": torch.zeros(1)}, tmp_path / "wrong.safetensors", metadata={METADATA_KEY: text})
    with pytest.raises(CheckpointError, match=rf"wrong\.safetensors has wrong metadata \({words}.*: convert") as error:
        read_weights_metadata(tmp_path / "wrong.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "{", "[" * 100_000, '{"version": 1' + "0" * 5000 + "}"])
def test_metadata_that_are_no_object(tmp_path, text):
    save_file({"x": torch.zeros(1)}, tmp_path / "wrong.safetensors", metadata={METADATA_KEY: text})
    with pytest.raises(CheckpointError, match="has wrong metadata"):
        read_weights_metadata(tmp_path / "wrong.safetensors")


def test_files_of_other_versions(tmp_path):
    about = json.loads(ABOUT.to_header()[METADATA_KEY])
    assert about.pop("version") == VERSION
    for gone in ("progress", "factory"):  # Files from before the version was written.
        del about[gone]
        save_file({"x": torch.zeros(1)}, tmp_path / "old.safetensors", metadata={METADATA_KEY: json.dumps(about)})
        assert read_weights_metadata(tmp_path / "old.safetensors") == replace(ABOUT, version=0)
    newer = json.dumps({"version": VERSION + 1, "what": "ever"})
    save_file({"x": torch.zeros(1)}, tmp_path / "new.safetensors", metadata={METADATA_KEY: newer})
    with pytest.raises(CheckpointError, match=r"new\.safetensors was saved by a newer binmat \(format 3.*--upgrade"):
        read_weights_metadata(tmp_path / "new.safetensors")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without fifos")
def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    assert read_weights_metadata(tmp_path / "model.safetensors") is None


def test_reading_imports_neither_torch_nor_numpy(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", metadata=ABOUT.to_header())
    program = (
        "import sys; from binmat.model_defs.weights_metadata import read_weights_metadata; "
        "assert read_weights_metadata(sys.argv[1]).size == (288, 512); "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.safetensors")], check=True)
