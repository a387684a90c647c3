"""The page of provenance: that it is complete, that its commands are what was counted, and that it is not stale."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from binmat.model_defs.registry import build
from binmat.reports import report
from binmat.reports.provenance import FIGURES, Printed, Setup, page, printed_numbers
from binmat.transforms.convert import convert

PAGE = Path(__file__).parents[2] / "docs" / "provenance.md"

#: How many numbers of networks that binmat has each table prints; a table that prints them twice is there once.
PRINTED = {
    ("BiMatting", "Table 1, 288x512"): 10,
    ("BiMatting", "Table 2, VM, 288x512"): 16,
    ("BiMatting", "Table 2, D646 and AIM (the same numbers twice), 512x512"): 16,
    ("BiMatting", "Table 3, VM, 1080x1920"): 8,
    ("BiMatting", "Table 3, D646 and AIM (the same numbers twice), 2048x2048"): 8,
    ("BiMatting", "Figure 3b, and the text of section 3.1"): 5,
    ("BiMatting", "Text of section 3.3"): 2,
    ("BiMatting", "Text of section 3.3, SAB beside the 0.55 of Table 1"): 1,
    ("BiMatting", "Text of section 4"): 6,
    ("BiMatting", "Text of section 4.2, beside the 0.57 of RVM-BNN in Table 2"): 1,
    ("LiteMatting", "Table 1"): 2,
    ("LiteMatting", "Table 3"): 4,
    ("LiteMatting", "Table 4"): 4,
    ("LiteMatting", "Table 5"): 6,
    ("LiteMatting", "Text of section 4.3, beside Table 1's numbers of other networks"): 4,
    ("LiteMatting", "Text of the abstract, beside Table 1's IndexNet"): 2,
    ("PAM", "Table 1, Flops"): 3,
    ("PAM", "Table 1, Param"): 1,
    ("PAM", "Text of the experiments, computation beside Table 1's"): 2,
    ("PAM", "Text of the experiments, parameters beside Table 1's"): 2,
}

SMALL = Setup("pam", (32, 64), config=(("path", "0000"),))


def printed(
    value: str,
    figure: str = "parameters",
    setup: Setup = SMALL,
    why: str | None = None,
    other: float | None = None,
) -> Printed:
    return Printed("a paper", "a table", "a row", "a column", value, figure, setup, why, other)


def test_every_printed_number_is_there() -> None:
    numbers = printed_numbers()
    assert Counter((number.paper, number.table) for number in numbers) == PRINTED
    places = Counter((number.paper, number.table, number.row, number.column) for number in numbers)
    assert set(places.values()) == {1}
    assert all(float(number.value) > 0 for number in numbers)


def test_agreement_is_in_the_digits_that_are_printed() -> None:
    """Path 0000 has 3,373,729 parameters (docs/networks/pam.md)."""
    assert printed("3.4").counted() == pytest.approx(3.373729)
    assert [value for value in ("3", "3.3", "3.4", "3.37", "3.38", "3.3737") if printed(value).agrees()] == [
        "3",
        "3.4",
        "3.37",
        "3.3737",
    ]
    why = printed("3.3", why="{parameters:,} of 4 bytes are {parameter_mib:.2f} MiB")
    assert why.reason() == f"3,373,729 of 4 bytes are {3_373_729 * 4 / 1048576:.2f} MiB"
    assert printed("3.4").reason() == ""


@pytest.mark.parametrize(("relation", "expected"), [("of", 84.343225), ("under", 15.656775), ("beyond", -0.626271)])
def test_a_figure_is_set_against_another_printed_number(relation: str, expected: float) -> None:
    """Path 0000's 3.373729 M beside 4.0 M."""
    assert printed("0", f"parameters {relation}", other=4.0).counted() == pytest.approx(expected)


def test_a_command_gives_the_report() -> None:
    setup = Setup("pam", (32, 64), config=(("path", "0000"),), scheme="threshold", settings=("padding=one",))
    text = 'report(convert(build("pam", path="0000"), "threshold", settings=["padding=one"]), size=(32, 64))'
    assert setup.command == text
    made = eval(text, {"build": build, "convert": convert, "report": report})
    assert made.to_json() == setup.report().to_json()
    assert made.recipe == "threshold"
    ops = made.after.counts["bimatting"].total.ops
    assert printed("0", "ops bimatting", setup).counted() == pytest.approx(ops / 1e9)
    assert printed("0", "less ops", setup).counted() == pytest.approx(made.ratio("bimatting"))
    assert printed("0", "less storage", setup).counted() == pytest.approx(made.storage_ratio)
    assert printed("0", "storage", setup).counted() == pytest.approx(made.after.bytes / 2**20)
    parts = [printed("0", f"share {part}", setup).counted() for part in ("level2", "stages")]
    assert all(0 < share < 100 for share in parts)
    quotient = printed("0", "ops bimatting level2 per stages", setup).counted()
    assert quotient == pytest.approx(100 * parts[0] / parts[1])
    kept = sum(bits for name, bits in made.after.bits.items() if name.startswith("level2."))
    assert printed("0", "storage share level2", setup).counted() == pytest.approx(kept / made.after.bytes / 8 * 100)
    with pytest.raises(ValueError, match=r"paper_figures\.toml has no figure 'latency'"):
        printed("0", "latency", setup).counted()


@pytest.mark.parametrize(
    ("setup", "command"),
    [
        (
            Setup("rvm_mobilenetv3", (1080, 1920), 0.25, recipe="bimatting"),
            'report(convert(build("rvm_mobilenetv3"), recipe="bimatting"), size=(1080, 1920), downsample_ratio=0.25)',
        ),
        (
            Setup("litematting", (64, 64), config=(("enb", False), ("norm", "batch"))),
            'report(build("litematting", enb=False, norm="batch"), size=(64, 64))',
        ),
    ],
)
def test_commands_are_python(setup: Setup, command: str) -> None:
    assert setup.command == command


@pytest.mark.slow
def test_the_page_is_what_binmat_counts() -> None:
    assert PAGE.read_text("utf-8") == page(), "docs/provenance.md is stale: run make provenance"


@pytest.mark.slow
def test_what_differs_has_a_reason_and_what_agrees_has_none() -> None:
    assert [number for number in printed_numbers(FIGURES) if number.agrees() == (number.why is not None)] == []
