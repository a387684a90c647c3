"""A few of the faults of ``make faults``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_nothing_is_lost_or_half_written() -> None:
    command = [sys.executable, Path(__file__).with_name("faults.py"), "--kills", "4", "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL at" in done.stdout and "\n0 faults did harm" in done.stdout
