from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from binmat.errors import CheckpointError
from binmat.model_defs.weights_metadata import METADATA_KEY, WeightsMetadata, read_weights_metadata

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


def test_a_missing_field_is_named_with_the_way_out(tmp_path):
    about = json.loads(ABOUT.to_header()[METADATA_KEY])
    del about["size"]
    save_file({"x": torch.zeros(1)}, tmp_path / "old.safetensors", metadata={METADATA_KEY: json.dumps(about)})
    with pytest.raises(CheckpointError, match=r"old\.safetensors was saved by another version .* has no size: convert"):
        read_weights_metadata(tmp_path / "old.safetensors")


def test_reading_imports_neither_torch_nor_numpy(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", metadata=ABOUT.to_header())
    program = (
        "import sys; from binmat.model_defs.weights_metadata import read_weights_metadata; "
        "assert read_weights_metadata(sys.argv[1]).size == (288, 512); "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.safetensors")], check=True)
