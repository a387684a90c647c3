"""binmat report, networks, schemes and recipes: tables and their JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import binmat
from binmat.data.image import photograph, read_image, resize, write_image
from binmat.model_defs.pam import PAM
from binmat.model_defs.registry import NETWORKS
from binmat.model_defs.trimap import portrait_trimap
from binmat.quantizers import SCHEMES
from binmat.reports.sparse import measure_density
from binmat.transforms.convert import convert
from binmat.transforms.recipe import recipe_names


def test_a_checkpoint(program, checkpoint: Path) -> None:
    status, out, _ = program("report", checkpoint, "--size", "288x512", "--json")
    assert status == 0
    counted = json.loads(out)
    assert counted["input"] == {"height": 288, "width": 512, "downsample_ratio": 1.0}
    assert counted["counts"]["bimatting"]["float"]["flops"] / 1e9 == pytest.approx(4.57, abs=5e-3)
    assert counted["counts"]["bimatting"]["converted"] is None
    plain, layers = (program("report", checkpoint, *options).out for options in ([], ["--layers"]))
    assert "288x512" in plain
    assert "decoder.decode0.conv.3" in layers
    assert "decoder.decode0.conv.3" not in plain


def test_a_converted_folder_is_counted_as_it_was_converted(program, converted: Path) -> None:
    written = json.loads((converted / "report.json").read_text())
    # What a conversion verified is said by its report alone; counting it again verifies nothing.
    assert json.loads(program("report", converted, "--json").out) == written | {"verification": {}}
    elsewhere = json.loads(program("report", converted, "--size", "64x64", "--json").out)
    assert elsewhere["input"]["height"] == 64
    assert elsewhere["verification"] == {}
    assert elsewhere["storage"]["files"] == {}


def test_several(program, checkpoint: Path, converted: Path) -> None:
    status, out, _ = program("report", checkpoint, converted, "--size", "32x48", "--compare")
    assert status == 0
    rows = [line.split()[:3] for line in out.splitlines() if line.startswith("rvm_")]
    assert rows == [["rvm_mobilenetv3", "float", "32x48"], ["rvm_mobilenetv3", "reactnet", "32x48"]]
    both = json.loads(program("report", checkpoint, converted, "--size", "32x48", "--json").out)
    assert [report["recipe"] for report in both["reports"]] == [None, "reactnet"]
    apart = program("report", checkpoint, converted, "--size", "32x48").out
    assert apart.count("one frame of 32x48") == 2


def test_a_sparse_decoder_is_credited(program, checkpoint: Path, tmp_path: Path) -> None:
    network = convert(binmat.load(checkpoint), "threshold", settings=["decoder=sab"], size=(64, 96))
    binmat.save(network, tmp_path / "sparse.safetensors")
    picture = photograph(50, 50)
    write_image(picture, tmp_path / "photo.png")
    arguments = ["report", tmp_path / "sparse.safetensors", "--density", "0.25"]
    status, out, _ = program(*arguments, "--clip", tmp_path / "photo.png", "--json")
    assert status == 0
    said = json.loads(out)
    assert said["input"] == {"height": 64, "width": 96, "downsample_ratio": 1.0}
    assert said["sparse"]["given"]["density"] == 0.25
    # The clip is resized to what is counted.
    picture = read_image(tmp_path / "photo.png")
    measured = measure_density(network, [resize(picture, 64, 96)])
    assert said["sparse"]["measured"]["density"] == measured.paths
    beside = program(*arguments, "--compare").out
    credited = said["sparse"]["given"]["bimatting"] / 1e6
    assert any(
        line.split()[:3] == ["at", "density", "0.25"] and f"{credited:.4f}" in line for line in beside.splitlines()
    )
    status, _, errors = program("report", checkpoint, "--density", "0.25")
    assert (status, "no sparse-assisted decoder to credit" in errors) == (1, True)
    assert program(*arguments[:-1], "1.25").status == 2


def test_the_density_of_a_network_with_a_trimap(program, tmp_path: Path) -> None:
    network = convert(PAM(path="0000"), "bnn", settings=["decoder=sab"], size=(64, 64))
    binmat.save(network, tmp_path / "sparse.safetensors")
    write_image(photograph(50, 50), tmp_path / "photo.png")
    write_image(portrait_trimap(50, 50).alpha()[None, None], tmp_path / "trimap.png")
    arguments = ["report", tmp_path / "sparse.safetensors", "--trimap", tmp_path / "trimap.png"]
    said = json.loads(program(*arguments, "--clip", tmp_path / "photo.png", "--json").out)
    assert said["sparse"]["measured"]["density"].keys() == {"up4.0.0", "up2.0.0", "up1.0.0"}
    status, _, errors = program(*arguments)
    assert (status, "--trimap and --background are those of a clip" in errors) == (1, True)


def test_networks(program) -> None:
    status, out, err = program("networks", "--json")
    assert status == 0
    listed = json.loads(out)
    assert list(listed) == list(NETWORKS)
    rvm = listed["rvm_mobilenetv3"]
    assert rvm["parameters"] == 3_748_633
    assert rvm["flops"]["textbook"] / 1e9 == pytest.approx(4.496, abs=5e-4)
    assert rvm["size"] == {"height": 288, "width": 512}
    assert rvm["layouts"] == list(NETWORKS["rvm_mobilenetv3"].layouts)
    assert rvm["options"] == {}
    assert listed["pam"]["options"]["cost_limit"]["converts"]
    assert not listed["lsa_matting"]["options"]["refinement_steps"]["converts"]
    assert all(f"count {name}" in err for name in NETWORKS)


def test_the_table_of_networks(program, monkeypatch) -> None:
    shown = {name: NETWORKS[name] for name in ("modnet", "pam")}
    monkeypatch.setattr("binmat.model_defs.registry.NETWORKS", shown)
    out = program("networks").out
    assert "6.49 M" in out
    assert "textbook, G" in out
    assert "512x512" in out
    assert NETWORKS["modnet"].paper in " ".join(out.split())
    assert "--option cost_limit=FLOAT (matte and convert): a path of at most" in out


def test_schemes(program) -> None:
    listed = json.loads(program("schemes", "--json").out)
    assert list(listed) == list(SCHEMES)
    for name, about in listed.items():
        assert binmat.get_scheme(name, **about["options"]) == SCHEMES[name]
    out = program("schemes").out
    assert all(f" {name} " in out for name in SCHEMES)


def test_recipes(program, tmp_path: Path) -> None:
    listed = json.loads(program("recipes", "--json").out)
    assert list(listed) == recipe_names()
    assert binmat.Recipe(**listed["arm"]).padding == "one"
    out = program("recipes").out
    assert all(f" {name} " in out for name in listed)
    assert "kind:depthwise = float" in out
    assert "padding = zero" not in out
