"""What steps say on a terminal and elsewhere."""

from __future__ import annotations

import pytest

from binmat.cli.console import Steps


@pytest.mark.parametrize("title", ["count", "run a/folder/with/a/name/that/is/longer/than/the/column/model.tflite"])
def test_progress_is_shown_on_a_terminal_only(title: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        with Steps() as steps:
            show = steps.step(title)
            show(1, 2)
            show(3, 0)
        said = capsys.readouterr().err
        assert (f"\r  {title} 1 of 2" in said) is (f"\r  {title} 3 of unknown" in said) is terminal
        assert said.rstrip().endswith(" s")
