from __future__ import annotations

from pathlib import Path

import torch
from official_checkpoints import official_state

from binmat.pipeline.convert_checkpoint import convert_checkpoint


def test_what_a_conversion_adds_is_the_same_each_time(tmp_path: Path) -> None:
    """BiMatting's encoder and decoder have layers that no checkpoint holds."""
    torch.save(official_state("rvm_mobilenetv3_dgf"), tmp_path / "rvm.pth")
    contents = []
    for name in ("first", "second"):
        torch.rand(3)
        convert_checkpoint(
            tmp_path / "rvm.pth", tmp_path / name, recipe="bimatting", size=(32, 48), formats=(), calibration=False
        )
        contents.append((tmp_path / name / "model.safetensors").read_bytes())
    assert contents[0] == contents[1]
