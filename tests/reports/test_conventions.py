"""Conventions of one's own, as the columns of reports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from report_support import Wrapped, counted, example
from torch import Tensor, nn

from binmat.errors import InputError, UnknownNameError
from binmat.reports import CONVENTIONS, OPERATORS, Convention, Cost, Kind, compare, count, macs_of, report
from binmat.transforms.convert import convert

DOUBLED = Convention(
    name="doubled",
    definition="A multiply-accumulate is two operations, a ReLU one per element; a sum over a map is left out.",
    rules={
        Kind.PRODUCT: lambda call: Cost(flops=2 * macs_of(call)),
        OPERATORS["relu"]: lambda call: Cost(flops=call.output.numel()),
        OPERATORS["sum"]: lambda call: Cost(left_out=True),
    },
)
MACS = 3 * 8 * 16


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 1, 1))


def test_a_convention_object_counts_as_a_name_does() -> None:
    found = count(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6()), DOUBLED, size=(4, 4))
    assert found.convention is DOUBLED and found.total == Cost(flops=2 * MACS)
    assert count(nn.Conv2d(3, 8, 1), CONVENTIONS["textbook"], size=(4, 4)).total == Cost(flops=MACS)


def test_what_a_rule_leaves_out_is_named_and_what_it_counts_of_it_is_counted() -> None:
    net = Wrapped(lambda m, x: m.relu(x).sum((2, 3)), relu=nn.ReLU())
    found = count(net, DOUBLED, example=example(1, 3, 4, 4))
    assert found.total.flops == 48 and found.not_counted == {"Tensor.sum": 1}
    part = Convention("part", "Half.", {Kind.RECTIFIER: lambda call: Cost(flops=24, left_out=True)})
    found = count(net, part, example=example(1, 3, 4, 4))
    assert found.total.flops == 24 and found.not_counted == {"nn.ReLU": 1}


def test_reports_have_the_columns_that_they_are_asked_for() -> None:
    plain = network()
    made = report(plain, convert(plain, "bnn"), size=(4, 4), conventions=[DOUBLED, "textbook", "fvcore"])
    assert list(made.conventions) == ["doubled", "textbook", "fvcore"]
    content = made.to_json()
    assert list(content["counts"]) == ["doubled", "textbook", "fvcore"] and content["cross_checks"] == {}
    macs = 16 * (3 * 8 + 8 * 8 + 8)
    assert content["counts"]["doubled"]["float"] == {"flops": 2 * macs + 128}
    for text in (made.table(layers=True), made.to_markdown(), str(compare(made)), compare(made).to_markdown()):
        assert "doubled" in text and "bimatting:" not in text and "(bimatting" not in text
    assert f"doubled: {DOUBLED.definition}" in " ".join(str(made).split())


def test_conventions_that_make_no_columns() -> None:
    with pytest.raises(UnknownNameError, match="'fvcor': did you mean 'fvcore'"):
        report(network(), size=(4, 4), conventions=["fvcor"])
    with pytest.raises(InputError, match="not none"):
        report(network(), size=(4, 4), conventions=[])
    with pytest.raises(InputError, match="not textbook, textbook"):
        report(network(), size=(4, 4), conventions=["textbook", Convention("textbook", "", {})])


def test_the_example_in_the_docs_counts_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs/counting.md").read_text()
    [example] = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "Convention(" in block]
    exec(compile(example, "docs/counting.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "1088" and "weighted: A multiply-accumulate is two" in printed


def test_reports_in_different_conventions_do_not_compare() -> None:
    with pytest.raises(InputError, match="different conventions"):
        compare(report(network(), size=(4, 4)), report(network(), size=(4, 4), conventions=["textbook"]))


def test_checks_of_sizes_and_empty_sequences_cost_nothing_and_are_not_named() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.layer(m.empty(x)) if x.shape[-1] % 4 == 0 else x

    net = Wrapped(forward, layer=nn.Conv2d(3, 8, 1), empty=nn.Sequential())
    for convention in ("textbook", "bimatting", "fvcore"):
        assert not counted(net, 1, 3, 4, 4, convention=convention).not_counted


def test_every_way_to_write_arithmetic_and_movement_is_known() -> None:
    """As the tracer records it: operators in place, with operands that change places, on sizes, into parts."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = 2 - x / 3 + 1 / (x + 4) - x // 2 + 3 // (x + 5) + x % 2 + 2**x + x**2 - (-x) + 5 % (x + 7) + abs(x)
        y += x
        y -= x
        y *= x
        y /= x + 9
        y **= 2
        y = y.masked_fill((x > 0) & ~(x < 1) | (x == 2) ^ (x != 3), 0.5)
        y[..., 0] = 1
        y[:, 1] += x[:, 1]
        z = torch.zeros_like(y).copy_(y).add_(1).clamp_(min=0).mul_(2).to(y.dtype)
        half = torch.arange(int(x.shape[-1] * 0.5)).view(1, -1).float()
        z = torch.stack([z, y]).unbind(0)[0].movedim(1, -1).transpose(1, 2).mT.permute(0, 2, 1, 3)
        norms = torch.linalg.vector_norm(x) + x.norm(dim=1, keepdim=True)
        return z + half.mean() + norms + x.flatten(1).topk(2)[0].sum()

    for convention in ("textbook", "bimatting", "fvcore"):
        found = counted(Wrapped(forward), 1, 3, 4, 4, convention=convention)
        assert not found.not_counted and found.total.ops == 0
