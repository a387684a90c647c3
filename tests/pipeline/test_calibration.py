"""What ``binmat convert`` calibrates: fresh conversions, on the clip or the photograph, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from binmat.data.image import photograph, write_image
from binmat.model_defs.registry import build
from binmat.pipeline.convert_checkpoint import ConvertedCheckpoint, convert_checkpoint
from binmat.transforms.checkpoint import load, save
from binmat.transforms.convert import convert


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save(build("modnet"), tmp_path / "modnet.safetensors")
    return tmp_path / "modnet.safetensors"


def converted(checkpoint: Path, scheme: str | None, **options: object) -> tuple[ConvertedCheckpoint, dict[str, Tensor]]:
    """Without a model file, which takes the most time."""
    folder = checkpoint.parent / "out"
    made = convert_checkpoint(checkpoint, folder, scheme, size=(32, 64), formats=(), **options)
    return made, load(folder).state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_fresh_conversion_is_calibrated_unless_told_otherwise(checkpoint: Path) -> None:
    plain = convert(load(checkpoint), "threshold").state_dict()
    made, state = converted(checkpoint, "threshold", calibration=False)
    assert equal(state, plain)
    assert "have seen no data: binmat.calibrate" in made.report.warnings[0]
    made, state = converted(checkpoint, "threshold")
    assert made.report.warnings == ()
    assert not equal(state, plain)


@pytest.mark.parametrize("scheme", ["bnn", "xnor", "dorefa", "recu"])
def test_a_scheme_without_thresholds_gets_them_where_layers_would_see_one_sign(checkpoint: Path, scheme: str) -> None:
    made, _ = converted(checkpoint, scheme)
    assert "every layer got one (options.threshold=layer)" in made.report.notes[0]
    assert made.report.warnings == ()
    assert 'threshold = "layer"' in (checkpoint.parent / "out" / "recipe.toml").read_text()


def test_a_published_block_needs_no_thresholds(checkpoint: Path) -> None:
    made, _ = converted(checkpoint, "irnet")
    assert made.report.notes == made.report.warnings == ()


def test_a_scheme_keeps_what_the_user_says_of_its_thresholds(checkpoint: Path) -> None:
    made, _ = converted(checkpoint, "bnn", settings=["options.threshold=none"])
    assert not made.report.notes
    assert made.report.warnings
    made, _ = converted(checkpoint, "bnn", calibration=False)
    assert not made.report.notes


def test_a_clip_is_what_it_is_calibrated_on(checkpoint: Path) -> None:
    picture = checkpoint.parent / "picture.png"
    write_image(photograph(32, 64).flip(3) / 2, picture)
    _, on_photograph = converted(checkpoint, "threshold")
    _, on_clip = converted(checkpoint, "threshold", clip=picture)
    assert not equal(on_photograph, on_clip)


def test_what_is_converted_already_stays_as_it_is(checkpoint: Path) -> None:
    trained = checkpoint.parent / "trained.safetensors"
    network = convert(load(checkpoint), "threshold")
    save(network, trained)
    _, state = converted(trained, None)
    assert equal(state, network.state_dict())


def test_layers_of_any_scheme_that_stay_one_sided_are_named(checkpoint: Path) -> None:
    made, _ = converted(checkpoint, "bnn", settings=["options.threshold=none"])
    assert "Scheme bnn learns no threshold but compares with 0" in made.report.warnings[0]
