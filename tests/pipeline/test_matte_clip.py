"""A clip's mattes as a library call."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from binmat.data.image import photograph, read_image, write_image
from binmat.errors import UnknownNameError
from binmat.model_defs.conversion_facts import ConversionFacts
from binmat.model_defs.lsa_matting import LSAMatting
from binmat.model_defs.network import Network, Prediction
from binmat.pipeline.matte_clip import matte_clip


class Grey(Network):
    name = "grey"

    def __init__(self) -> None:
        super().__init__()
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def predict(self, image, memory=None, *, trimap=None, downsample_ratio=1.0, progress=None):
        number = (memory or 0) + 1
        alpha = torch.full_like(image[:, :1], downsample_ratio)
        return Prediction(alpha, memory=number, notes=("grey",), details={"number": number})


def test_a_folder_of_frames(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    for number in range(3):
        write_image(photograph(16, 16), tmp_path / "frames" / f"{number}.png")
    network, seen = Grey(), []
    network.conversion = ConversionFacts(downsample_ratio=0.25)
    out = tmp_path / "out"
    made = matte_clip(network, tmp_path / "frames", str(out), progress=lambda *step: seen.append(step))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert made.files == tuple(out / kind / f"{n}.png" for n in range(3) for kind in ("alpha", "composite"))
    assert all(file.is_file() for file in made.files)
    # What the network was converted for, where nothing else is asked.
    assert made.downsample_ratio == 0.25
    assert read_image(made.files[0]).unique().tolist() == [pytest.approx(64 / 255)]
    assert (made.notes, made.active) == (("grey",), ())
    assert [about["number"] for about in made.details] == [1, 2, 3]
    with pytest.raises(UnknownNameError, match="no option of grey is called 'level'"):
        matte_clip(network, tmp_path / "frames", tmp_path / "other", level=1)
    assert not (tmp_path / "other").exists()


def test_the_progress_of_one_image_is_that_of_its_steps(tmp_path: Path) -> None:
    write_image(photograph(32, 32), tmp_path / "photo.png")
    write_image(torch.full((1, 1, 32, 32), 128 / 255), tmp_path / "trimap.png")
    seen: list[tuple[int, int]] = []
    matte_clip(
        LSAMatting(),
        tmp_path / "photo.png",
        tmp_path / "out",
        trimap=tmp_path / "trimap.png",
        progress=lambda *step: seen.append(step),
        refinement_steps=3,
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
