"""The BiMatting paper's figures for its own halves, and what a mask is credited with."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from binmat.errors import InputError
from binmat.model_defs.network import Network
from binmat.model_defs.registry import build
from binmat.reports import Report, report, stored_bits
from binmat.transforms.convert import convert

#: Size and ratio -> credited at density .351 in convention bimatting, in G. test_provenance.py: what the paper prints.
CREDITED = {
    (288, 512, 1.0): 0.3731,
    (512, 512, 1.0): 0.6633,
    (1080, 1920, 0.25): 0.3792,
    (2048, 2048, 0.25): 0.7655,
}


@cache
def network(scheme: str = "", *settings: str) -> Network:
    rvm = build("rvm_mobilenetv3")
    return convert(rvm, scheme, settings=settings) if scheme else convert(rvm, recipe="bimatting")


@cache
def counted(*settings: str) -> Report:
    return report(network("threshold", *settings) if settings else network(), size=(288, 512))


@pytest.mark.parametrize("call", CREDITED)
def test_bimatting_credited_with_the_papers_density(call: tuple[int, int, float]) -> None:
    height, width, ratio = call
    sparse = report(network(), size=(height, width), downsample_ratio=ratio).sparse
    assert sparse is not None
    assert sparse.credited("bimatting") / 1e9 == pytest.approx(CREDITED[call], abs=5e-5)


def test_dense_and_each_half_alone() -> None:
    assert counted().after.counts["bimatting"].total.ops / 1e9 == pytest.approx(0.6504, abs=5e-5)
    encoder = counted("encoder=sbb")
    assert encoder.sparse is None
    assert "sparse" not in encoder.to_json()
    assert encoder.after.counts["bimatting"].total.ops / 1e9 == pytest.approx(0.5662, abs=5e-5)
    assert counted("decoder=sab").sparse.credited("bimatting") / 1e9 == pytest.approx(0.3546, abs=5e-5)


def test_storage_is_the_papers() -> None:
    assert sum(stored_bits(network()).values()) / 8 / 2**20 == pytest.approx(0.6733, abs=5e-5)


def test_what_is_masked_is_the_3x3_work_of_four_blocks_and_the_rest_stays_dense() -> None:
    sparse = counted().sparse
    assert sparse.paths == (
        *(f"decoder.decode{level}.{part}" for level in (3, 2, 1) for part in ("conv", "gru.ih", "gru.hh")),
        "decoder.decode0.conv",
    )
    for name, count in sparse.counts.items():
        assert count.credited(1.0) == count.total
        masked = sum(sparse.of_path(name, path) for path in sparse.paths)
        assert count.credited(0.0).ops == pytest.approx(count.total.ops - masked)
        # One density for all is one density for each.
        same = count.credited(dict.fromkeys(sparse.paths, 0.25))
        assert same == count.credited(0.25)
        assert not any(layer.endswith("_1x1.0") for layer in count.masked)
        assert "decoder.decode4.conv.0" not in count.masked


def test_the_density_of_a_clip_is_its_masks() -> None:
    net = network("threshold", "decoder=sab")
    mask = net.get_submodule("decoder.decode4.conv_mask")
    left, nothing = torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 4, 6)
    left[..., :3] = 1
    masks = iter([left, nothing])
    # Counting runs on tensors without data, which are of another type.
    mask.forward = lambda alpha: next(masks) if type(alpha) is torch.Tensor else alpha
    try:
        call = report(net, size=(64, 96), density=0.5)
        made = report(net, size=(64, 96), density=0.5, clip=[torch.rand(1, 3, 64, 96)] * 2)
    finally:
        del mask.forward
    assert call.sparse.measured is None
    assert made.sparse.measured.frames == 2
    # Half of the columns and half a cell of fading, in one of two frames.
    assert made.sparse.measured.paths["decoder.decode0.conv"] == pytest.approx((48 + 8) / 96 / 2)
    data = made.to_json()["sparse"]
    assert data["given"]["density"] == 0.5
    assert data["measured"]["bimatting"] == made.sparse.on_clip("bimatting")
    assert [path["name"] for path in data["paths"]] == list(made.sparse.paths)
    text = str(made)
    assert "credited at density 0.5" in text
    assert "credited on the clip, 2 frames" in text
    assert "Sparse-assisted decoder" in made.to_markdown()


def test_every_layer_has_the_credited_figures_too() -> None:
    made = counted()
    table = made.to_markdown().split("## By layer")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    heads, *layers = rows
    dense, credited = heads.index("bimatting, M"), heads.index("bimatting, at 0.351, M")
    total = {column: sum(float(row[column]) for row in layers) for column in (dense, credited)}
    assert total[dense] == pytest.approx(made.after.counts["bimatting"].total.ops / 1e6, rel=1e-4)
    assert total[credited] == pytest.approx(made.sparse.credited("bimatting") / 1e6, rel=1e-4)
    masked = {layer.name: layer.path for layer in made.layers if layer.path}
    assert masked["decoder.decode0.conv.3"] == "decoder.decode0.conv"
    for row in layers:
        share = 0.351 if row[0] in masked else 1.0
        if row[0] != "all else":
            assert float(row[credited]) == pytest.approx(float(row[dense]) * share, abs=1e-4)


@pytest.mark.parametrize("density", [-0.1, 1.5])
def test_a_density_is_a_share(density: float) -> None:
    with pytest.raises(InputError, match="is not a share of pixels: pass a number from 0 to 1"):
        report(network(), size=(64, 64), density=density)


def test_a_clip_has_frames() -> None:
    with pytest.raises(InputError, match="this one has none"):
        report(network(), size=(64, 64), clip=[])
