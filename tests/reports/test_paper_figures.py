"""The rules behind the BiMatting paper's numbers, to four digits.

What the paper prints of them is in reports/paper_figures.toml; test_provenance.py compares.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pytest

from binmat.model_defs.network import Network
from binmat.model_defs.registry import build
from binmat.reports import CONVENTIONS, Count, saved_bytes, stored_bits
from binmat.reports import count as count_one
from binmat.reports.blocks import Blocks
from binmat.reports.call_recorder import record_calls
from binmat.reports.convention import FREE
from binmat.reports.count import is_binary, price
from binmat.transforms.convert import convert

SIZES = {(288, 512): 1.0, (512, 512): 1.0, (1080, 1920): 0.25, (2048, 2048): 0.25}
#: Scheme -> convention bimatting at each of SIZES, in G.
FLOAT = [4.5678, 8.1193, 4.1523, 8.3678]
BINARY = {
    "bnn": [0.4976, 0.8845],
    "dorefa": [0.5193, 0.9233],
    "recu": [0.5193, 0.9233],
    "threshold": [0.5472, 0.9727, 0.5321, 1.0750],
}
TEXTBOOK = [4.496, 7.991, 4.076, 8.214]
#: Network -> convention bimatting at SIZES, in G. DeepLabV3 has no row in Table 3.
OTHERS = {
    "bgmv2_mobilenetv2": [8.4637, 15.0466, 9.8625, 17.4418],
    "deeplabv3_resnet101": [136.0609, 241.8856],
}


@cache
def rvm(scheme: str | None = None) -> Network:
    network = build("rvm_mobilenetv3")
    return convert(network, scheme) if scheme else network


@cache
def counts(scheme: str | None, size: tuple[int, int]) -> dict[str, Count]:
    network = rvm(scheme)
    calls = record_calls(network, network.example(*size, SIZES[size]))
    return {name: price(calls, c, binary_network=is_binary(network)) for name, c in CONVENTIONS.items()}


def totals(scheme: str | None, convention: str, sizes: Iterable[tuple[int, int]]) -> list[float]:
    return [counts(scheme, size)[convention].total.ops / 1e9 for size in sizes]


def test_float() -> None:
    assert totals(None, "textbook", SIZES) == pytest.approx(TEXTBOOK, abs=5e-4)
    assert totals(None, "bimatting", SIZES) == pytest.approx(FLOAT, abs=5e-5)


@pytest.mark.parametrize("scheme", BINARY)
def test_binary(scheme: str) -> None:
    figures = totals(scheme, "bimatting", [*SIZES][: len(BINARY[scheme])])
    assert figures == pytest.approx(BINARY[scheme], abs=5e-5)


def test_everything_was_counted_or_is_free_by_definition() -> None:
    for scheme in (None, "threshold"):
        for count in counts(scheme, (1080, 1920)).values():
            assert count.not_counted == {}


def test_figure_3b() -> None:
    """The shares of Figure 3b are those of the network at 1080p, not at 288x512."""
    count = counts("threshold", (1080, 1920))["bimatting"]
    sums = Blocks(rvm("threshold")).sums(count.costs, FREE)
    decoder, backbone = sums["decoder"].ops, sums["backbone"].ops
    assert decoder / 1e9 == pytest.approx(0.3831, abs=5e-5)
    assert decoder / count.total.ops == pytest.approx(0.720, abs=5e-4)
    assert backbone / count.total.ops == pytest.approx(0.165, abs=5e-4)
    at_288 = counts("threshold", (288, 512))["bimatting"]
    assert Blocks(rvm("threshold")).sums(at_288.costs, FREE)["decoder"].ops / at_288.total.ops == pytest.approx(
        0.796, abs=5e-4
    )


def test_parts_and_blocks_add_up() -> None:
    count = counts("threshold", (1080, 1920))["bimatting"]
    blocks = Blocks(rvm("threshold"))
    sums = blocks.sums(count.costs, FREE)
    assert sum((sums.get(part, FREE) for part in ("backbone", "aspp", "project_mat", "refiner", "decoder")), FREE) == (
        count.total
    )
    inside = [name for name in sums if name.startswith("decoder.")]
    assert set(inside) == {"decoder.avgpool", *(f"decoder.decode{i}" for i in range(5))}
    assert sum((sums[name] for name in inside), FREE) == sums["decoder"]


@pytest.mark.parametrize(
    ("scheme", "mebibytes"), [("bnn", 0.5707), ("dorefa", 0.5707), ("recu", 0.6399), ("threshold", 0.6399)]
)
def test_storage_formula(scheme: str, mebibytes: float) -> None:
    assert sum(stored_bits(rvm(scheme)).values()) / 8 / 2**20 == pytest.approx(mebibytes, abs=5e-5)


def test_storage_of_the_float_network() -> None:
    assert saved_bytes(rvm()) / 2**20 == pytest.approx(14.52, abs=5e-3)
    assert sum(stored_bits(rvm()).values()) == 3_748_633 * 32


@pytest.mark.parametrize("name", OTHERS)
def test_networks_beside_rvm(name: str) -> None:
    network, sizes = build(name), [*SIZES][: len(OTHERS[name])]
    found = [count_one(network, "bimatting", size=size, downsample_ratio=SIZES[size]) for size in sizes]
    assert all(each.not_counted == {} for each in found)
    assert [each.total.ops / 1e9 for each in found] == pytest.approx(OTHERS[name], abs=5e-5)


def test_bgmv2_costs_at_1080p_what_its_patches_cost() -> None:
    """80,000 pixels are 5,000 patches: 3x3 convolutions from 8x8 to 4x4 at half size, and from 8x8 to 4x4 pixels."""
    found = count_one(build("bgmv2_mobilenetv2"), size=(1080, 1920), downsample_ratio=0.25)
    patch = 9 * (42 * 24 * 6 * 6 + 24 * 16 * 4 * 4 + 22 * 12 * 6 * 6 + 12 * 4 * 4 * 4)
    costs = {name: cost.flops for name, cost in found.costs.items() if name.startswith("refiner.")}
    assert sum(costs.values()) == 5000 * patch == 2_371_680_000


def test_sizes_of_the_networks_beside_rvm() -> None:
    """BGMv2's 19.4 MiB are its saved file with the refiner; DeepLabV3's 223.66 its parameters, without statistics."""
    assert saved_bytes(build("bgmv2_mobilenetv2")) / 2**20 == pytest.approx(19.36, abs=5e-3)
    assert saved_bytes(build("bgmv2_mobilenetv2", refiner=False)) / 2**20 == pytest.approx(19.29, abs=5e-3)
    deeplab = build("deeplabv3_resnet101")
    assert f"{sum(p.numel() for p in deeplab.parameters()) * 4 / 2**20:.2f}" == "223.66"
    assert f"{saved_bytes(deeplab) / 2**20:.2f}" == "224.29"
