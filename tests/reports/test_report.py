"""The report: numbers of both networks together, JSON, tables, Markdown, errors."""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from example_networks import ResNet, UNet
from report_support import Wrapped, example
from torch import nn

from binmat.errors import InputError, SizeError, UnknownNameError
from binmat.model_defs.network import Network
from binmat.model_defs.registry import build
from binmat.reports import Report, compare, count, report, saved_bytes, stored_bits
from binmat.transforms.convert import convert

SIZE = (64, 96)


@cache
def rvm() -> Network:
    return build("rvm_mobilenetv3")


@cache
def converted(scheme: str) -> Network:
    return convert(rvm(), scheme)


@cache
def rvm_report() -> Report:
    return report(rvm(), converted("reactnet"), size=SIZE)


def test_json_has_the_fixed_schema(tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(bytes(123))
    verification = {"lce": {"max_abs": 1e-6, "mean_abs": 1e-8, "flipped_signs": 0}}
    bnet = converted("threshold")
    made = report(bnet, size=SIZE, verification=verification, files=[tmp_path / "model.tflite"])
    made.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content == made.to_json()
    assert list(content) == [
        "schema", "network", "recipe", "input", "counts", "storage", "layers", "verification", "cross_checks",
        "warnings",
    ]  # fmt: skip
    assert (content["schema"], content["network"], content["recipe"]) == (1, "rvm_mobilenetv3", "threshold")
    assert content["input"] == {"height": 64, "width": 96, "downsample_ratio": 1.0}
    assert content["verification"] == verification
    for convention in ("textbook", "bimatting"):
        before = count(rvm(), convention, size=SIZE).total
        after = count(bnet, convention, size=SIZE).total
        assert content["counts"][convention] == {
            "float": {"flops": before.flops},
            "converted": {"flops": after.flops, "bops": after.bops, "ops": after.flops + after.bops / 64},
            "ratio": before.flops / after.ops,
        }
    formula = sum(stored_bits(bnet).values()) / 8
    assert content["storage"] == {
        "float_bytes": saved_bytes(rvm()),
        "converted_bytes": formula,
        "ratio": saved_bytes(rvm()) / formula,
        "files": {"model.tflite": 123},
        "sha256": {"model.tflite": sha256(bytes(123)).hexdigest()},
    }
    assert set(content["layers"][0]) == {
        "name", "kind", "precision", "scheme", "macs", "bops", "weight_bits", "bytes", "reason", "path",
    }  # fmt: skip


def test_layers_add_up_and_none_is_missing() -> None:
    bnet = converted("reactnet")
    layers = rvm_report().layers
    assert [layer.name for layer in layers] == [n for n, m in bnet.named_modules() if isinstance(m, nn.Conv2d)]
    total = count(bnet, "textbook", size=SIZE).total
    assert sum(layer.bops for layer in layers) == total.bops
    assert sum(layer.macs - layer.bops for layer in layers) == total.flops
    assert sum(layer.macs for layer in layers) == count(rvm(), "textbook", size=SIZE).total.flops
    for layer in layers:
        binary = layer.precision == "binary"
        assert (layer.scheme, layer.weight_bits) == (("reactnet", 1) if binary else (None, 32))
        assert layer.bops == (layer.macs if binary else 0)
        assert layer.reason or binary
        assert layer.bytes > 0


def test_layers_off_the_path_are_named_with_a_reason() -> None:
    layers = {layer.name: layer for layer in rvm_report().layers}
    absent = {name for name, layer in layers.items() if layer.macs == 0}
    assert absent == {"project_seg.conv", *(f"refiner.{n}" for n in ("box_filter", "conv.0", "conv.3", "conv.6"))}
    assert layers["refiner.conv.0"].reason == "not on the path at ratio 1"
    assert layers["project_seg.conv"].reason == "output layer: segmentation; not on the path at ratio 1"
    refined = {layer.name: layer for layer in report(rvm(), size=(256, 256), downsample_ratio=0.25).layers}
    assert refined["refiner.conv.0"].macs == 64 * 64 * 24 * 16
    assert refined["refiner.box_filter"].macs == 4 * (64 * 64 * 4 * 9)
    assert refined["project_seg.conv"].reason == "not converted; not on the path at ratio 0.25"


def test_counterpart_is_built_where_it_is_not_passed() -> None:
    alone = report(converted("bnn"), size=SIZE)
    assert alone.to_json() == report(converted("bnn"), rvm(), size=SIZE).to_json()
    assert alone.before is not None


def test_default_size_is_the_registrys() -> None:
    made = report(rvm())
    assert (made.height, made.width) == (288, 512)


def test_float_network_alone() -> None:
    content = report(rvm(), size=SIZE).to_json()
    assert content["recipe"] is None
    assert content["counts"]["textbook"]["converted"] is None
    assert content["counts"]["textbook"]["ratio"] is None
    assert content["storage"]["converted_bytes"] is None
    assert {layer["precision"] for layer in content["layers"]} == {"float"}


def test_reactnet_says_what_it_costs_beyond_the_papers_row() -> None:
    reactnet, threshold = converted("reactnet"), converted("threshold")
    more = count(reactnet, "bimatting", size=SIZE).total.ops - count(threshold, "bimatting", size=SIZE).total.ops
    bits = sum(stored_bits(reactnet).values()) - sum(stored_bits(threshold).values())
    assert more > 0
    [note] = rvm_report().notes
    assert f"reactnet takes {more / 1e6:.4f} M and {bits / 8 / 2**20:.4f} MiB more" in note
    assert note in rvm_report().to_markdown()
    assert "more." in str(rvm_report())
    assert report(threshold, size=SIZE).notes == ()


@pytest.mark.parametrize("network", [UNet(), ResNet()], ids=["unet", "resnet"])
def test_any_traceable_module(network: nn.Module) -> None:
    bnet = convert(network, "threshold")
    made = report(network, bnet, size=(32, 48))
    assert made.network == type(network).__name__
    assert made.storage_ratio is not None and made.storage_ratio > 1
    assert made.ratio("textbook") == made.before.counts["textbook"].total.ops / made.after.counts["textbook"].total.ops
    alone = report(bnet, size=(32, 48))
    assert alone.to_json()["counts"]["textbook"]["ratio"] is None
    assert "pass both, report(net, bnet)" in str(alone)
    assert alone.layers == made.layers


def test_products_and_unknown_layers_are_in_the_report() -> None:
    net = Wrapped(
        lambda m, x: torch.matmul(m.attention(x, x, x)[0], x.transpose(1, 2)).logcumsumexp(1),
        attention=nn.MultiheadAttention(8, 2, batch_first=True),
    )
    made = report(net, example=example(1, 5, 8))
    layers = {layer.name: layer for layer in made.layers}
    assert (layers["matmul"].kind, layers["matmul"].macs) == ("torch.matmul", 5 * 8 * 5)
    assert "counted with 'attention'" in layers["attention.out_proj"].reason
    remark = "Met but not counted by bimatting: Tensor.logcumsumexp (1 call)."
    assert remark in made.to_markdown()


def test_terminal_table_says_the_totals() -> None:
    text = rvm_report().table()
    summary = {
        line.split("  ")[0]: line.split()[1:] for line in text.splitlines() if line.startswith(("float  ", "conv"))
    }
    before, after = (count(net, "bimatting", size=SIZE).total.ops for net in (rvm(), converted("reactnet")))
    assert summary["float"][1] == f"{before / 1e9:.4f}"
    assert summary["converted"][1] == f"{after / 1e9:.4f}"
    assert "textbook: One multiply-accumulate" in text
    assert "backbone.features.0.0" not in text
    assert "backbone.features.0.0" in rvm_report().table(layers=True)


def test_markdown_tables_are_whole() -> None:
    text = rvm_report().to_markdown()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    for lines in tables:
        assert len({line.count("|") for line in lines}) == 1
    assert len(tables[-1]) == 2 + len(rvm_report().layers) + 1
    assert "`" * 3 + "text\n" in text and "█" in text


def test_layer_table_adds_up() -> None:
    """Layers and what stands between them are the total, in operations and in bytes."""
    rows = [line.split("|")[1:-1] for line in rvm_report().to_markdown().split("## By layer")[1].splitlines()[4:]]
    assert rows[-1][0].strip() == "all else"
    sums = [sum(float(row[column].replace(",", "")) for row in rows) for column in (4, 5, 6)]
    side = rvm_report().after
    assert side is not None
    # The table is in units of an operation's millionth, four digits behind the point.
    for total, convention in zip(sums, ("textbook", "bimatting"), strict=False):
        assert total * 1e6 == pytest.approx(side.counts[convention].total.ops, abs=50 * len(rows))
    assert sums[2] == pytest.approx(side.bytes, abs=0.5)


def test_comparison(tmp_path: Path) -> None:
    both = compare(rvm_report(), report(rvm(), size=SIZE))
    lines = str(both).splitlines()
    assert [line.split()[:3] for line in lines[3:5]] == [
        ["rvm_mobilenetv3", "reactnet", "64x96"],
        ["rvm_mobilenetv3", "float", "64x96"],
    ]
    both.save(tmp_path / "all.json")
    content: dict[str, Any] = json.loads((tmp_path / "all.json").read_text())
    assert content["reports"][0] == rvm_report().to_json()
    both.save(tmp_path / "all.md")
    assert (tmp_path / "all.md").read_text().count("rvm_mobilenetv3") == 2
    with pytest.raises(InputError, match="at least one report"):
        compare()


def test_wrong_networks_are_refused() -> None:
    with pytest.raises(InputError, match=r"not 2 float and 0 converted: .*compare"):
        report(rvm(), UNet(), size=SIZE)
    with pytest.raises(InputError, match="not 0 float and 0 converted"):
        report(size=SIZE)
    with pytest.raises(InputError, match="rvm_mobilenetv3 was not made from UNet"):
        report(UNet(), converted("bnn"), size=SIZE)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(SizeError, match=r"UNet has no usual size: pass size=\(height, width\)"):
        report(UNet())
    with pytest.raises(SizeError, match="size 0x48 has no pixels"):
        report(UNet(), size=(0, 48))
    with pytest.raises(SizeError, match="size 8x8 is too small for rvm_mobilenetv3"):
        report(rvm(), size=(8, 8))


def test_saving_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match=r"no report format is called '\.html': .*known: \.json, \.md"):
        rvm_report().save(tmp_path / "report.html")
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        rvm_report().save(tmp_path / "nowhere" / "report.md")
    with pytest.raises(InputError, match=r"missing\.tflite cannot be part of the report: No such file"):
        report(rvm(), size=SIZE, files=[tmp_path / "missing.tflite"])
    (tmp_path / "report.md").write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"report\.md cannot be written: No space left on device"):
        rvm_report().save(tmp_path / "report.md")
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "old"


def test_layers_that_see_nothing_are_a_warning() -> None:
    made = report(converted("bnn"), size=SIZE)
    [warning] = made.warnings
    blind = [layer.name for layer in made.layers if "all its signs are +1" in layer.reason]
    assert warning.startswith(f"In {len(blind)} of 77 binary layers ({blind[0]}, {blind[1]}, ...) the signs")
    assert made.to_json()["warnings"] == [warning]
    assert "Warning: In " in str(made)
    assert f"**Warning**: {warning}" in made.to_markdown()
    assert "Scheme bnn learns no threshold but compares with 0" in warning
    [warning] = report(converted("threshold"), size=SIZE).warnings
    assert f"The thresholds of {len(blind)} have seen no data: binmat.calibrate(network, frames) sets them" in warning
    assert report(converted("reactnet"), size=SIZE).warnings == ()


def test_layers_that_were_seen_with_one_sign_are_a_warning_of_any_scheme() -> None:
    network = converted("dorefa")
    name = "backbone.features.4.block.2.fc2"
    made = report(network, size=SIZE, one_sided=[name])
    assert f"({name}) the signs" in made.warnings[0]
    assert "Scheme dorefa learns no threshold but compares with 0.5, and the input stays on one" in made.warnings[0]
    assert [layer.name for layer in made.layers if "stayed on one side of its threshold" in layer.reason] == [name]
