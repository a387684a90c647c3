"""The pieces that tables are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binmat.reports.tables import Table, bar, bar_chart, bytes_unit, operations_unit, times


def test_bars_are_exact_to_an_eighth() -> None:
    assert bar(0, 4) == "    "
    assert bar(1, 4) == "████"
    assert bar(0.5 + 1 / 32, 4) == "██▏ "


@given(st.floats(0, 1), st.integers(1, 40))
def test_bars_have_their_width(share: float, width: int) -> None:
    drawn = bar(share, width)
    assert len(drawn) == width
    eighths = 8 * drawn.count("█") + sum("▏▎▍▌▋▊▉".index(c) + 1 for c in drawn if c in "▏▎▍▌▋▊▉")
    assert eighths == pytest.approx(share * width * 8, abs=0.5)


def test_chart_lines_up() -> None:
    lines = bar_chart(("operations", "storage"), {"a": (0.25, 0.5), "  long": (0.75, 0.1)}, width=8).splitlines()
    assert lines[1].index("50.0%") == lines[2].index("10.0%")
    assert lines[0].index("storage") == lines[1].index("████ ")


def test_units_fit_the_numbers() -> None:
    assert operations_unit(4.6e9).show(4.5678e9) == "4.5678"
    assert (operations_unit(4.6e8).name, operations_unit(4.6e6).name, operations_unit(460).name) == ("G", "M", "ops")
    assert operations_unit(460).show(26.5) == "26.5"
    assert bytes_unit(671_000).show(671_000) == "0.6399"
    assert (bytes_unit(5000).name, bytes_unit(50).name) == ("KiB", "bytes")
    assert (times(None), times(8.35)) == ("-", "8.3x")


def test_markdown_keeps_indents_and_bars() -> None:
    text = Table("", ["name", "two\nlines"], [["  inner", "a|b"]], "lr").render("github")
    assert "&nbsp;&nbsp;&nbsp;&nbsp;inner" in text
    assert "two, lines" in text
    assert r"a\|b" in text
